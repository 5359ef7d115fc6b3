"""Find objects in images by a trained run: their boxes, and their masks if it has any, as a table and drawn.

python -m dl.modules.Detection.predict cells.png --run runs/Detection/FCOS
python -m dl predict runs/Detection/FCOS cells.png other.png --score 0.3 --figure predictions.png
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.cli.command import command
from dl.cli.listing import columns
from dl.cli.runs import Run
from dl.modules.Detection.figure import predictions
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path
from dl.mytorch.data import read_image
from dl.mytorch.data.boxes.sets import BoxConfig, box_set, prepare
from dl.mytorch.layers.boxes import Detections


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Detection.predict")
    parser.add_argument("images", nargs="+", type=user_path, metavar="IMAGE", help="JPEG, PNG, WebP ...")
    parser.add_argument("--run", type=user_path, required=True, help="folder of a run")
    parser.add_argument("--score", type=share, default=0.5, help="least score of what is shown, 0 to 1 (default: %(default)s)")
    parser.add_argument(
        "--figure", type=user_path, default=Path("predictions.png"), help="figure to write (default: %(default)s)"
    )
    return parser.parse_args(argv)


def share(text: str) -> float:
    """Return a number from 0 to 1, the type of a flag."""
    if not 0 <= (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


@torch.no_grad()
def detect(model: Any, image: Tensor, config: BoxConfig, score: float) -> Detections:
    """Return what a network finds in an image (3, H, W) of bytes with at least this score, in pixels of the image itself."""
    batch = prepare(image, config)
    found = model.detect(batch["images"], batch["sizes"])[0]
    boxes, labels, scores, masks = (None if each is None else each[found.scores >= score] for each in found)
    height, width = torch.tensor(image.shape[1:]) / batch["sizes"][0]
    if masks is not None:
        masks = F.interpolate(masks[None].float(), image.shape[1:])[0] > 0.5
    return Detections(boxes * torch.stack([width, height, width, height]), labels, scores, masks)


def counts(found: Detections, names: Sequence[str]) -> str:
    """Return how many objects there are of each class: "2 a, 1 b", or "nothing"."""
    numbers = found.labels.bincount(minlength=len(names)).tolist()
    return ", ".join(f"{number} {name}" for number, name in zip(numbers, names) if number) or "nothing"


def table(paths: Sequence[Path], found: Sequence[Detections], names: Sequence[str]) -> str:
    """Return a row for each object: its image, class, score, and its box, pixels from the left and from above."""
    rows = [["image", "class", "score", "left", "top", "right", "bottom"]]
    for path, each in zip(paths, found):
        for box, label, score in zip(each.boxes.tolist(), each.labels.tolist(), each.scores.tolist()):
            rows.append([str(path), names[label], f"{score:.2f}", *(f"{side:.1f}" for side in box)])
    return columns(rows)


@command(parse)
def main(options: argparse.Namespace) -> None:
    images = [read_image(path) for path in options.images]
    run = Run.open(options.run)
    model, names = run.model().eval(), box_set(run.config).classes
    found = []
    for path, image in zip(options.images, images):
        found.append(detect(model, image, run.config, options.score))
        print(f"{path}: {counts(found[-1], names)}")
    if any(len(each.labels) for each in found):
        print(table(options.images, found, names))
    plot.save_image(predictions(images, found, names), options.figure)
    print(f"drawn: {options.figure}")


if __name__ == "__main__":
    sys.exit(main())
