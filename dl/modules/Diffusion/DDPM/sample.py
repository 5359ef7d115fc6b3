"""Draw samples of a run into a picture.

    python -m dl.modules.Diffusion.DDPM.sample runs/Diffusion/DDPM --steps 50 --num 64 --out grid.png
    python -m dl.modules.Diffusion.DDPM.sample runs/Diffusion/DDPM --label 3 --guidance 3 --sampler dpm_solver_2m --steps 10
    python -m dl.modules.Diffusion.DDPM.sample runs/Diffusion/DDPM --num 16 --nearest      # are they copies?
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from dl.modules.Diffusion.DDPM.model import UNet
from dl.modules.Diffusion.DDPM.process import Process
from dl.modules.Diffusion.DDPM.samplers import ddim, ddpm, dpm_solver_2m, guided
from dl.modules.Diffusion.DDPM.task import picture
from dl.modules.Diffusion.DDPM.train import Config, network, process
from dl.mytorch import plot
from dl.mytorch.checkpoint import load_weights
from dl.mytorch.config import UserError
from dl.mytorch.data import ImageConfig, ImageSet, image_set, image_splits
from dl.mytorch.logger import read_json

SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm_solver_2m": dpm_solver_2m}


class Trained(NamedTuple):
    """A trained network with what belongs to it."""

    model: UNet
    process: Process
    about: ImageSet
    data: str  # the name of that set


def trained(run: Path, prediction: str = "") -> Trained:
    """The best checkpoint of a run. Raises `UserError` for a folder without one, and for a run of another `prediction`."""
    if not (run / "best.pt").exists():
        raise UserError(f"{run} holds no trained network, no best.pt; `python -m dl.modules.Diffusion.DDPM.train` makes one")
    described = read_json(run / "config.json")
    if described["recipe"] != "Diffusion/DDPM":
        raise UserError(f"{run} is a run of {described['recipe']}, not of Diffusion/DDPM")
    config = Config(**described["config"])
    if prediction and prediction != config.prediction:
        raise UserError(f"{run} was trained to predict {config.prediction}, not {prediction}")
    return Trained(load_weights(network(config), run / "best.pt").eval(), process(config), image_set(config), config.data)


@torch.no_grad()
def sample(
    trained: Trained,
    labels: Tensor | None,
    num: int,
    sampler: str,
    steps: int,
    guidance: float,
    eta: float,
    seed: int,
    batch: int = 64,
) -> Tensor:
    """`num` images (num, C, H, W) in about [-1, 1], with a progress bar. `labels` (num,) or None: of no class."""
    model, process, about, _ = trained
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(num, about.channels, about.size, about.size, generator=generator)
    options = {"ddim": {"eta": eta, "generator": generator}, "ddpm": {"generator": generator}}.get(sampler, {})
    parts = []
    with tqdm(total=steps * -(-num // batch), unit="step", leave=False, disable=None) as bar:
        for start in range(0, num, batch):
            part = slice(start, start + batch)
            denoise = model if labels is None else guided(model, labels[part], guidance)
            draw = SAMPLERS[sampler]
            parts.append(draw(denoise, process, noise[part], steps=steps, watch=lambda i, x: bar.update(), **options))
    return torch.cat(parts)


def nearest(images: Tensor, training: Tensor) -> Tensor:
    """For each image (N, C, H, W) the one of `training` (M, C, H, W) with the smallest squared difference of pixels."""
    return training[torch.cdist(images.flatten(1), training.flatten(1)).argmin(1)]


def beside_nearest(images: Tensor, found: Trained) -> Tensor:
    """Each image and behind it its nearest training image, (2N, C, H, W)."""
    training = image_splits(ImageConfig(out="unused", data=found.data)).train.dataset["images"] / 127.5 - 1
    return torch.stack([images, nearest(images, training)], dim=1).flatten(0, 1)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=about, prog="python -m dl.modules.Diffusion.DDPM.sample")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--num", type=int, default=64, help="how many images (default: %(default)s)")
    parser.add_argument("--label", default="", help="number or name of a class; default: all in turn")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of the guidance; 1 = none (default: %(default)s)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddim", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=50, help="steps of the sampler (default: %(default)s)")
    parser.add_argument("--eta", type=float, default=0.0, help="noise of ddim's steps, 0 to 1 (default: %(default)s)")
    parser.add_argument("--prediction", default="", help="insist that the run predicts this: epsilon, x0 or v")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--nearest", action="store_true", help="show each sample with the nearest training image behind it")
    parser.add_argument("--out", type=Path, default=Path("grid.png"), help="picture to write (default: %(default)s)")
    return parser.parse_args(argv)


def chosen_labels(asked: str, num: int, trained: Trained) -> Tensor | None:
    """The label of each sample. Raises `UserError` for a class that there is not."""
    names = trained.about.classes
    if not trained.model.num_classes:
        if asked:
            raise UserError(f"--label {asked}: this run was trained without classes")
        return None
    if not asked:
        return torch.arange(num) % len(names)
    if asked not in names and not (asked.isdecimal() and int(asked) < len(names)):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise UserError(f"--label {asked}: no such class; there are {known}")
    return torch.full((num,), names.index(asked) if asked in names else int(asked))


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    try:
        found = trained(options.run, options.prediction)
        if not 1 <= options.steps <= found.process.steps:
            total = found.process.steps
            raise UserError(f"--steps {options.steps}: this run's process has {total}, and sampling takes from 1 to so many")
        if options.num < 1 or not 0 <= options.eta <= 1:
            raise UserError(f"--num has to be at least 1 and --eta from 0 to 1; got {options.num} and {options.eta}")
        labels = chosen_labels(options.label, options.num, found)
        if labels is None and options.guidance != 1:
            raise UserError("--guidance needs a run with classes, which this one has not")
        images = sample(found, labels, options.num, options.sampler, options.steps, options.guidance, options.eta, options.seed)
        columns = len(found.about.classes) if labels is not None and not options.label else 8
        if options.nearest:
            images, columns = beside_nearest(images, found), 8
        plot.save_image(picture(images, columns), options.out)
        print(f"drawn: {options.out}")
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
