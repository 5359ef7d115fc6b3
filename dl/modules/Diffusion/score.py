"""How like the real images samples are: Frechet distance, precision and recall, agreement with the class that was asked for.

    python -m dl.modules.Diffusion.score runs/Diffusion/DDPM --classifier runs/CNN/ResNet --num 2000 --guidance 3
    python -m dl.modules.Diffusion.score runs/Diffusion/DDPM --classifier runs/CNN/ResNet --real      # what 0 is worth
    python -m dl.modules.Diffusion.score runs/Diffusion/DDPM --classifier runs/CNN/ResNet --record    # into the README

The features are those of a classifier of this project, the mean over the last maps of a ResNet trained on the same set.
So the numbers compare runs here; they are not the FID of papers, whose features are those of Inception on ImageNet.

- Frechet distance: Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6.
- precision, recall: Kynkaanniemi et al. 2019, https://arxiv.org/abs/1904.06991, equations 1 and 2.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

from dl.cli import catalogue, records
from dl.cli.classifiers import classifier
from dl.cli.command import SEEDS, check_range, command
from dl.cli.results import markdown_table, rewrite
from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM.data import some_examples
from dl.modules.Diffusion.DDPM.sample import MOST, SAMPLERS, Diffusion, check, first_noise, sample
from dl.modules.Diffusion.frechet import frechet_distance
from dl.mytorch import Probe
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import ImageSet, Splits, image_splits
from dl.mytorch.data.images.sets import IMAGE_SETS
from dl.mytorch.files import read_json
from dl.mytorch.float64 import with_float64
from dl.mytorch.logger import device_name
from dl.mytorch.run import read_described

QUANTITIES = ("frechet_distance", "precision", "recall", "agreement")
ABOUT = {"command": str, "commit": str}
RECORD = {
    **{"run": ABOUT, "classifier": ABOUT},
    "scores": [{"sampler": str, "num": int, "seed": int, **dict.fromkeys(QUANTITIES[:3], float), "agreement": (float, None)}],
}


def precision_recall(real: Tensor, drawn: Tensor, nearest: int = 3) -> tuple[float, float]:
    """Return the share of drawn features (M, D) that lie among the real ones (N, D), and of real ones among the drawn.

    A point lies among others if it is no farther from one of these than the `nearest`-th neighbour of that one is.
    """

    def share_among(points: Tensor, others: Tensor) -> float:
        parts = others.split(2000)  # all distances of 10,000 points would take a gigabyte
        radius = torch.cat([torch.cdist(part, others).kthvalue(nearest + 1, dim=1).values for part in parts])  # 1st: itself
        among = [(torch.cdist(part, others) <= radius).any(1) for part in points.split(2000)]
        return torch.cat(among).double().mean().item()

    real, drawn = (with_float64(features).double() for features in (real, drawn))
    return share_among(drawn, real), share_among(real, drawn)


@torch.no_grad()
def features(classifier: nn.Module, images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """What the last layer of the classifier sees, (N, D), and the classes that it says, (N,), for standardised images."""
    if "pool" not in dict(classifier.named_modules()):
        raise UserError("--classifier takes a network with a layer `pool`, as CNN/ResNet")
    seen, said = [], []
    for part in images.split(batch):
        with Probe(classifier.eval(), "pool") as probe:
            said.append(classifier(part).argmax(1))
        seen.append(probe["pool"].flatten(1))
    return torch.cat(seen), torch.cat(said)


def standardised(images: Tensor, about: ImageSet) -> Tensor:
    """Return images in [-1, 1] as a classifier of the same set sees them: rounded to bytes first, as real images are."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return about.standard({"images": pixels}, torch.Generator())["images"]


def drawn(options: argparse.Namespace, found: Diffusion, splits: Splits) -> tuple[Tensor, Tensor | None]:
    """Return the images (N, C, H, W) to be scored, in [-1, 1], and the classes that were asked for (N,), if any."""
    if options.real:
        batch = some_examples(splits.train, options.num)
        return batch["images"] / 127.5 - 1, batch["labels"]
    asked = torch.arange(options.num) % len(found.about.classes) if found.model.num_classes else None
    noise = first_noise(found, options.num, options.seed)
    return sample(found, noise, asked, options.sampler, options.steps, options.guidance, seed=options.seed), asked


def drawing(run: Run, calls: int) -> tuple[Callable[[int, int], Tensor], int, str]:
    """Return what draws images of a run, network calls for each, and the sampler, see Generative/scores.py.

    The sampler is the run's default; of a run with classes, all are asked for in turn.
    """
    found = Diffusion(run)
    # A decoder of latents is one call more.
    steps, sampler = max(1, min(calls - found.latent, found.process.steps)), found.samplers[0]

    def draw(num: int, seed: int) -> Tensor:
        labels = torch.arange(num) % len(found.about.classes) if found.model.num_classes else None
        images = sample(found, first_noise(found, num, seed), labels, sampler, steps, seed=seed)
        return (images.clamp(-1, 1) + 1) / 2

    return draw, steps + found.latent, f"{sampler}, {steps} steps"


def scores(options: argparse.Namespace, found: Diffusion, classifier: nn.Module) -> dict[str, Any]:
    """The scores of `options.num` images against as many of the test set, with what was asked and the seconds it took."""
    splits = image_splits(found.config)
    test = some_examples(splits.test, options.num)["images"]
    started = time.perf_counter()
    images, asked = drawn(options, found, splits)
    seconds = time.perf_counter() - started
    real, _ = features(classifier, found.about.standard({"images": test}, torch.Generator())["images"])
    fake, said = features(classifier, standardised(images, found.about))
    precision, recall = precision_recall(real, fake)
    agreement = None if asked is None else (said == asked).double().mean().item()
    asked_for = {name: getattr(options, name) for name in ("sampler", "steps", "guidance")}
    return {
        **({"sampler": "training images"} if options.real else asked_for),
        **{"num": options.num, "seed": options.seed},
        **dict(zip(QUANTITIES, (frechet_distance(real, fake), precision, recall, agreement))),
        **{"seconds": round(seconds, 1), "device": device_name(next(found.model.parameters()).device)},
    }


def record(row: dict[str, Any], options: argparse.Namespace) -> str:
    """Put a row into the scores of its recipe, in the place of one of the same settings, and all of them into its README."""
    described, judge = (read_described(run) for run in (options.run, options.classifier))
    name = described["recipe"]
    path = catalogue.MODULES / name / "results" / "scores" / f"{described['config']['data']}.json"
    about = {"run": {name: described[name] for name in ("command", "commit")}}
    about |= {"classifier": {name: judge[name] for name in ("command", "commit")}}
    content = read_json(path, RECORD) if path.exists() else {}
    same_run = {name: content.get(name) for name in about} == about
    rows = content["scores"] if same_run else []  # those of another run are of no use beside these
    rows = [old for old in rows if any(old.get(n) != row.get(n) for n in ("sampler", "steps", "guidance", "num", "seed"))]
    records.write(about | {"scores": [*rows, row]}, path)
    return "\n".join(rewrite(*each) for each in tables() if each[0] == catalogue.MODULES / name / "README.md")


def tables() -> list[tuple[Path, str, str]]:
    """Return the tables of scores that are recorded, one for each README that has any, see `dl.cli.results.OTHERS`."""
    found = {}
    for folder in sorted(catalogue.MODULES.glob("*/*/results/scores")):
        rows = [row for content in records.read(folder, RECORD) for row in content["scores"]]
        found[folder.parents[1] / "README.md"] = table(rows)
    return [(path, "scores", rows) for path, rows in found.items()]


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows of scores in Markdown."""
    headings = ["sampler", "steps", "guidance", "images", "Frechet distance", "precision", "recall", "of the class asked for"]
    cells = []
    for row in rows:
        distance, precision, recall, agreement = (row[name] for name in QUANTITIES)
        shown = [f"{distance:.2f}", f"{precision:.3f}", f"{recall:.3f}"]
        shown.append("" if agreement is None else f"{100 * agreement:.1f} %")
        cells.append([row["sampler"], *(f"{row.get(name, '')}" for name in ("steps", "guidance", "num")), *shown])
    return markdown_table(headings, cells)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Diffusion.score")
    parser.add_argument("run", type=user_path, help="folder of a run of DDPM, DiT, FlowMatching or LatentDiffusion")
    parser.add_argument("--classifier", type=user_path, required=True, help="folder of a run of CNN/ResNet on the same set")
    parser.add_argument("--num", type=int, default=2000, help="samples, and real images of the test set (default: %(default)s)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="default: ddim; for a flow euler")
    parser.add_argument("--steps", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=1.0, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--real", action="store_true", help="score images of the training set in the place of samples")
    parser.add_argument("--record", action="store_true", help="keep the scores in results/scores and README of the recipe")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    found, judge = Diffusion.open(options.run), classifier(Run.open(options.classifier))
    check(options, found)
    check_range("--num", options.num, 8, MOST)
    check_range("--seed", options.seed, *SEEDS)
    if options.record and found.config.data not in IMAGE_SETS:
        raise UserError(f"--record keeps scores of sets that all have, not of --data {found.config.data}")
    if judge.classes != found.run.names:
        raise UserError(f"{options.classifier} was trained on other classes than {options.run}")
    row = scores(options, found, judge.model)
    print(record(row, options) if options.record else table([row]))


if __name__ == "__main__":
    sys.exit(main())
