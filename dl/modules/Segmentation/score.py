"""Errors of a run on two classes at the threshold that is best on its training and validation images.

    python -m dl.modules.Segmentation.score runs/Segmentation/UNet --tta

Cross-entropy with weights asks for more membrane than there is, so that 0.5 is not the best threshold of its probability. It is
chosen on all images but those of the test. `--tta` takes the mean probability of the eight symmetries of an image; the paper
takes that of seven rotated copies.
"""

import argparse
import sys
from typing import Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor

from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.Segmentation.components import components
from dl.modules.Segmentation.metrics import confusion, per_class_iou, rand_error
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import Loader
from dl.mytorch.data.images.masks import MaskSet, mask_set, mask_splits, padded

PIXEL, RAND = [i / 100 for i in range(1, 100)], [i / 10 for i in range(1, 10)]  # thresholds of each error


class Seen(NamedTuple):
    """An image: the probability that a pixel is of class 1, (H, W), and its mask (H, W)."""

    probability: Tensor
    mask: Tensor


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Segmentation.score")
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument(
        "--tta", action="store_true", help="mean of the eight symmetries of each image, for eight times the time"
    )
    return parser.parse_args(argv)


def probabilities(model: Any, images: Tensor, tta: bool) -> Tensor:
    """Return the probability of class 1 at each pixel of images (B, C, H, W): (B, H, W)."""
    total, count = torch.zeros(()), 0
    for turns in range(4 if tta else 1):
        for flip in (False, True) if tta else (False,):
            turned = images.rot90(turns, (2, 3))
            turned = turned.flip(3) if flip else turned
            found = model.predict(turned).float().softmax(1)[:, 1]
            found = found.flip(2) if flip else found
            total, count = total + found.rot90(-turns, (1, 2)), count + 1
    return total / count


def pixel_error(seen: Sequence[Seen], threshold: float) -> float:
    """Return the share of wrong pixels, all images pooled."""
    counts = counted(seen, threshold)
    return float(1 - counts.diag().sum() / counts.sum())


def counted(seen: Sequence[Seen], threshold: float) -> Tensor:
    """Return the confusion matrix (2, 2) of all images."""
    return torch.stack([confusion(each.probability > threshold, each.mask, 2) for each in seen]).sum(0)


def mean_rand_error(seen: Sequence[Seen], threshold: float) -> float:
    """Return the mean Rand error of images; objects are the connected components of class 1."""
    errors = [rand_error(components(each.probability > threshold), components(each.mask == 1)) for each in seen]
    return float(torch.tensor([error for error in errors if error == error]).mean())


def best(error: Callable[[Sequence[Seen], float], float], seen: Sequence[Seen], thresholds: Sequence[float]) -> float:
    """Return the threshold with the least error."""
    return min(thresholds, key=lambda threshold: error(seen, threshold))


@torch.no_grad()
def see(run: Run, about: MaskSet, tta: bool) -> tuple[list[Seen], list[Seen]]:
    """Return what a run sees in the images of training and validation, and in those of its test, all at full size."""
    model, data = run.model().eval(), mask_splits(run.config)
    whole = Loader(
        data.train.dataset, 1, collate=None if data.train.in_memory else padded, transform=about.standard
    )  # fmt: skip

    def of(loader: Loader) -> list[Seen]:
        return [Seen(probabilities(model, batch["images"], tta)[0], batch["masks"][0]) for batch in loader.batches()]

    return of(whole) + of(data.val), of(data.test)


@command(parse)
def main(options: argparse.Namespace) -> None:
    run = Run.open(options.run)
    about = mask_set(run.config)
    if (classes := len(about.classes)) != 2:
        raise UserError(f"{options.run} has {classes} classes; a threshold is for two: `python -m dl evaluate` has its errors")
    known, test = see(run, about, options.tta)
    threshold = best(pixel_error, known, PIXEL)
    iou = per_class_iou(counted(test, threshold).double())
    print(f"threshold {threshold:.2f}: pixel error {pixel_error(test, threshold):.2%} of {len(test)} test images", end="")
    print(f" ({pixel_error(test, 0.5):.2%} at 0.50), mean IoU {float(iou.mean()):.2%}, Dice", end=" ")
    print(", ".join(f"{name} {float(2 * i / (1 + i)):.2%}" for name, i in zip(about.classes, iou)))
    threshold = best(mean_rand_error, known, RAND)
    print(f"threshold {threshold:.2f}: Rand error {mean_rand_error(test, threshold):.2%}")


if __name__ == "__main__":
    sys.exit(main())
