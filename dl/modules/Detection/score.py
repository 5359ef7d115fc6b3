"""Average precision of a run on the test images, by COCO's rules: of each class, and of small, medium and large boxes.

    python -m dl.modules.Detection.score runs/Detection/FCOS

Small boxes have at most 32^2 pixels, large ones at least 96^2. Of a run that finds masks, masks are scored, too.
"""

import argparse
import math
import sys
from typing import Any, Sequence

import torch
from torch import Tensor

from dl.cli.command import command
from dl.cli.listing import columns
from dl.cli.runs import Run
from dl.modules.Detection.metrics import ANY_AREA, Truth, matches, precisions, truth_of
from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path
from dl.mytorch.data import Loader
from dl.mytorch.data.boxes.sets import box_set, box_splits
from dl.mytorch.layers.boxes import Detections

AREAS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
Seen = list[tuple[Detections, Truth]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Detection.score")
    parser.add_argument("run", type=user_path, help="folder of a run")
    return parser.parse_args(argv)


@torch.no_grad()
def see(model: Any, loader: Loader) -> Seen:
    """Return what a network finds in each image of `loader`, and what is there."""
    seen = []
    for batch in loader.batches():
        seen += [(found, truth_of(batch, i)) for i, found in enumerate(model.detect(batch["images"], batch["sizes"]))]
    return seen


def precision(seen: Seen, num_classes: int, masks: bool = False, area_range: tuple = ANY_AREA) -> tuple[Tensor, Tensor]:
    """Return AP of each class at each threshold of IoU, (K, T), and how many boxes of each class count, (K,)."""
    rows, counts = zip(*(matches(*pair, num_classes, masks=masks, area_range=area_range) for pair in seen))
    total = torch.stack(counts).sum(0)
    return precisions(torch.cat(rows), total, range(num_classes)), total


def table(seen: Seen, names: Sequence[str], masks: bool = False) -> str:
    """Return a row for each class, one for their mean, and the mean of each range of areas."""
    found, counts = precision(seen, len(names), masks)
    rows = [["masks" if masks else "boxes", "number", "AP@0.5", "AP@0.75", "AP"]]
    rows += [_row(*each) for each in zip(names, found, counts.tolist())]
    rows.append(_row("mean", found.nanmean(0), float(counts.sum())))
    for name, limits in AREAS.items():
        found, counts = precision(seen, len(names), masks, limits)
        rows.append(_row(f"mean, {name}", found.nanmean(0), float(counts.sum())))
    return columns(rows)


def _row(name: str, found: Tensor, count: float) -> list[str]:
    """Return the cells of AP at each threshold (T,), "-" where no box counts."""
    values = found[0].item(), found[5].item(), found.mean().item()
    return [name, f"{count:.0f}", *("-" if math.isnan(value) else f"{value:.1%}" for value in values)]


@command(parse)
def main(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    names = box_set(run.config).classes
    seen = see(run.model().eval(), box_splits(run.config).test)
    print(f"{len(seen)} test images of {run.config.data}", table(seen, names), sep="\n\n")
    if seen[0][0].masks is not None and seen[0][1].masks is not None:
        print("", table(seen, names, masks=True), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
