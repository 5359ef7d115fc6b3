"""Draw samples of a run into an image.

    python -m dl.modules.Diffusion.DDPM.sample --steps 50 --num 64 --label 3 --out grid.png     # the run runs/Diffusion/DDPM
    python -m dl.modules.Diffusion.DDPM.sample runs/Diffusion/DDPM --label 3 --guidance 3 --sampler dpm_solver_2m --steps 10
    python -m dl.modules.Diffusion.DDPM.sample runs/Diffusion/DDPM --num 16 --nearest                # are they copies?
    python -m dl.modules.Diffusion.DDPM.sample runs/Diffusion/DDPM --num 8 --interpolate --label 3   # from one to another

It takes runs of DiT, FlowMatching and LatentDiffusion, too.
"""

import argparse
import contextlib
import math
import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.cli.command import SEEDS, check_range, command
from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM.samplers import ddim, ddpm, dpm_solver_2m, guided
from dl.modules.Diffusion.DDPM.task import image_grid
from dl.modules.Diffusion.DDPM.train import Config
from dl.modules.Diffusion.FlowMatching.flow import euler
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import Loader, image_set, image_splits
from dl.mytorch.distributed import device
from dl.mytorch.precision import native_bf16
from dl.mytorch.progress import Progress

MOST = 1_000_000  # samples
SAMPLERS = {"ddim": ddim, "ddpm": ddpm, "dpm_solver_2m": dpm_solver_2m, "euler": euler}
RECIPES = ("Diffusion/DDPM", "Diffusion/DiT", "Diffusion/FlowMatching", "Diffusion/LatentDiffusion")
FRAMES = 8  # of an interpolation, with both ends
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tiff", ".gif", ".pdf")  # what can be written


class Diffusion:
    """A run with what sampling needs of it: `shape` of what is drawn, an image or, if it is `latent`, what decodes to one.

    Raises `UserError` for a network of another `prediction`, if one is asked for, and for an autoencoder.
    """

    def __init__(self, run: Run, prediction: str = "") -> None:
        self.run, self.config, self.about = run, run.config, image_set(run.config)
        if not hasattr(run.module, "process"):
            raise UserError(f"{run.path} is a run of an autoencoder, which draws nothing by itself: take one of train.py")
        self.process = run.module.process(run.config)  # DDPM's, or a flow
        if prediction and prediction != self.process.prediction:
            raise UserError(f"{run.path} was trained to predict {self.process.prediction}, not {prediction}")
        where = device(run.config.device)
        self.model = run.model().to(where)
        self.latent = hasattr(self.model, "decode")
        self.shape = self.model.latent_shape if self.latent else (self.about.channels, self.about.size, self.about.size)
        self.bf16 = run.precision == "bf16" and native_bf16(where)[0]  # compute in bf16

    @classmethod
    def open(cls, path: Path, prediction: str = "") -> "Diffusion":
        """Return the run in a folder. Raises `UserError` for a folder without one, and for a run of another recipe."""
        return cls(Run.open(path, *RECIPES), prediction)

    @property
    def samplers(self) -> list[str]:
        """Return the samplers that fit the run's process, the default first."""
        return ["euler"] if self.process.prediction == "velocity" else ["ddim", "ddpm", "dpm_solver_2m"]


def first_noise(found: Diffusion, num: int, seed: int) -> Tensor:
    """Return what `num` samples begin with, (num, C, H, W)."""
    return torch.randn(num, *found.shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample(
    found: Diffusion,
    noise: Tensor,
    labels: Tensor | None,
    sampler: str,
    steps: int,
    guidance: float = 1.0,
    eta: float = 0.0,
    seed: int = 0,
    batch: int = 64,
) -> Tensor:
    """Return images (N, C, H, W) in about [-1, 1] from noise (N, *shape), with a progress bar, on the CPU in the end.

    `labels` (N,) or None: of no class. The network computes in the precision in which it was trained,
    but in bf16 only where the device does so natively.
    """
    where = next(found.model.parameters()).device
    generator = torch.Generator().manual_seed(seed + 1)
    options = {"ddim": {"eta": eta, "generator": generator}, "ddpm": {"generator": generator}}.get(sampler, {})
    options |= {"clip": False} if found.latent else {}  # latents have no ends of a range
    parts = []
    with (
        contextlib.closing(Progress(steps * -(-len(noise) // batch), what="sampling")) as progress,
        torch.autocast(where.type, torch.bfloat16, enabled=found.bf16),
    ):
        for start in range(0, len(noise), batch):
            part = slice(start, start + batch)
            denoise = found.model if labels is None else guided(found.model, labels[part].to(where), guidance)
            draw = SAMPLERS[sampler]
            watch = {"watch": lambda i, x: progress.update()}
            drawn = draw(denoise, found.process, noise[part].to(where), steps=steps, **watch, **options)
            parts.append((found.model.decode(drawn) if found.latent else drawn).float().cpu())
    return torch.cat(parts)


def between(noise: Tensor, frames: int = FRAMES) -> Tensor:
    """From each noise (N, C, H, W) to the next, from the last to the first, on the arc of a great circle: (N frames, C, H, W).

    On the straight line there would be too little noise in the middle (Song et al. 2020, appendix D.5).
    """
    pairs = noise.flatten(1), noise.roll(-1, 0).flatten(1)
    angle = F.cosine_similarity(*pairs).acos().view(-1, 1, 1)
    share = torch.linspace(0, 1, frames).view(1, -1, 1)
    first, second = (end[:, None] for end in pairs)  # (N, 1, C H W)
    mixed = ((1 - share) * angle).sin() * first + (share * angle).sin() * second  # (N, frames, C H W)
    return (mixed / angle.sin()).view(-1, *noise.shape[1:])


def beside_nearest(images: Tensor, training: Loader, batch: int = 1000) -> Tensor:
    """Return each image (N, C, H, W) in [-1, 1] and beside it that of the training set with the smallest squared difference of
    pixels, (2N, C, H, W). A `batch` of the set is in memory at a time, for it may be on disk."""
    best, least = torch.zeros_like(images), torch.full((len(images),), math.inf)
    for part in Loader(training.dataset, batch, num_workers=training.num_workers).batches():
        pixels = part["images"] / 127.5 - 1
        distances, places = torch.cdist(images.flatten(1), pixels.flatten(1)).min(1)
        nearer = distances < least
        best[nearer], least = pixels[places[nearer]], least.minimum(distances)
    return torch.stack([images, best], dim=1).flatten(0, 1)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Diffusion.DDPM.sample")
    parser.add_argument(
        "run", type=user_path, nargs="?", default=Path(Config.out), help="folder of a run (default: %(default)s)"
    )
    parser.add_argument("--num", type=int, default=64, help="how many images (default: %(default)s)")
    parser.add_argument("--label", default="", help="number or name of a class; default: all in turn; to interpolate, 0")
    parser.add_argument("--text", action="append", default=[], help="what to draw, once or often, of a run trained on texts")
    parser.add_argument("--guidance", type=float, default=1.0, help="scale of the guidance; 1 = none (default: %(default)s)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: ddim; for a flow euler")
    parser.add_argument("--steps", type=int, default=50, help="steps of the sampler (default: %(default)s)")
    parser.add_argument("--eta", type=float, default=0.0, help="noise of ddim's steps, 0 to 1 (default: %(default)s)")
    parser.add_argument("--prediction", default="", help="insist that the run predicts this: epsilon, x0, v or velocity")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--nearest", action="store_true", help="show each sample with the nearest training image beside it")
    parser.add_argument("--interpolate", action="store_true", help="draw the way from each sample to the next")
    parser.add_argument("--out", type=user_path, default=Path("grid.png"), help="image to write (default: %(default)s)")
    return parser.parse_args(argv)


def chosen_labels(asked: str, num: int, found: Diffusion) -> Tensor | None:
    """Return the label of each sample. Raises `UserError` for an unknown class."""
    names = found.about.classes
    if not found.model.num_classes:
        if asked:
            raise UserError(f"--label {asked}: this run was trained without classes")
        return None
    if not asked:
        return torch.arange(num) % len(names)
    if asked not in names and not (asked.isdecimal() and int(asked) < len(names)):
        known = ", ".join(f"{i} {name}" for i, name in enumerate(names))
        raise UserError(f"--label {asked}: no such class; there are {known}")
    return torch.full((num,), names.index(asked) if asked in names else int(asked))


def chosen_texts(texts: list[str], num: int, found: Diffusion) -> Tensor:
    """Return the place of each sample's text in `texts`, which the model has for its labels then.

    Raises `UserError` for a run that reads no texts, and for one that is too long.
    """
    if not hasattr(found.model, "tokens"):
        raise UserError("--text needs a run of LatentDiffusion with --condition text")
    try:
        found.model.set_texts(texts)
    except ValueError as error:
        raise UserError(f"--text: {error}") from None
    return torch.arange(num) % len(texts)


def check_out(out: Path) -> None:
    """Raise `UserError` for a name that no kind of image has: before time is spent on what it shows."""
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out}: the name of an image ends in {', '.join(SUFFIXES)}")


def check(options: argparse.Namespace, found: Diffusion) -> None:
    """Raise `UserError` for what this run cannot do; set the default sampler where none was asked for."""
    options.sampler = options.sampler or found.samplers[0]
    if options.sampler not in found.samplers:
        fitting = ", ".join(found.samplers)
        raise UserError(f"--sampler {options.sampler}: a network that predicts {found.process.prediction} takes {fitting}")
    if not 1 <= options.steps <= found.process.steps:
        total = found.process.steps
        raise UserError(f"--steps {options.steps}: this run's process has {total}, and sampling takes 1 to {total}")
    if options.guidance != 1 and not found.model.num_classes:
        raise UserError("--guidance needs a run with classes, and this one has none")
    if options.guidance != 1 and not found.config.drop_label:
        raise UserError("--guidance needs a run that has seen images without a label, and this one had --drop-label 0")
    if not math.isfinite(options.guidance):
        raise UserError(f"--guidance has to be a finite number; got {options.guidance}")


@command(parse)
def main(options: argparse.Namespace) -> None:
    check_out(options.out)
    found = Diffusion.open(options.run, options.prediction)
    check(options, found)
    if options.num < 1 or not 0 <= options.eta <= 1:
        raise UserError(f"--num has to be at least 1 and --eta from 0 to 1; got {options.num} and {options.eta}")
    check_range("--num", options.num, 1, MOST)
    check_range("--seed", options.seed, *SEEDS)
    if options.eta and options.sampler != "ddim":
        raise UserError(f"--eta is the noise of ddim's steps; --sampler {options.sampler} takes none: leave it out")
    if options.interpolate and (options.sampler == "ddpm" or options.eta):
        raise UserError("--interpolate takes a sampler that adds no noise: ddim without --eta, dpm_solver_2m, euler")
    if options.interpolate and options.num < 2:
        raise UserError("--interpolate goes from sample to sample: --num at least 2")
    if options.text and options.label:
        raise UserError("--text and --label both say what to draw: leave one out")
    labels = chosen_labels(options.label, options.num, found)
    if options.text:
        labels = chosen_texts(options.text, options.num, found)
    noise = first_noise(found, options.num, options.seed)
    columns = found.model.num_classes if labels is not None and not options.label else 8
    if options.interpolate:
        noise, columns = between(noise), FRAMES
        labels = None if labels is None else labels[:1].expand(len(noise))  # with two, a row would not end at the next
    images = sample(found, noise, labels, options.sampler, options.steps, options.guidance, options.eta, options.seed)
    if options.nearest:
        images, columns = beside_nearest(images, image_splits(found.config).train), 8
    plot.save_image(image_grid(images, columns), options.out)
    print(f"drawn: {options.out}")


if __name__ == "__main__":
    sys.exit(main())
