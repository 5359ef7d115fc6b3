"""Figures of a segmentation: classes in colour over the image, and what is wrong."""

from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch import plot
from dl.mytorch.data.images.windows import IGNORE

# Of the classes from 1 on, bright ones first; class 0 leaves the image as it is.
COLOURS = torch.tensor(
    [[0, 0, 0], [31, 119, 180], [255, 127, 14], [44, 160, 44], [214, 39, 40], [148, 103, 189], [140, 86, 75], [23, 190, 207]]
) / 255  # fmt: skip
MISSED, ADDED = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([1.0, 0.75, 0.0])
GAP = 6  # pixels between images


def overlay(image: Tensor, classes: Tensor, strength: float = 0.45) -> Tensor:
    """Return an image (C, H, W) of any range with its classes (H, W) in colour over it: (3, H, W) in [0, 1]."""
    grey = plot.to_unit(image).expand(3, -1, -1)
    colours = COLOURS[(classes.long() - 1) % (len(COLOURS) - 1) + 1].permute(2, 0, 1)
    return torch.where((classes > 0) & (classes != IGNORE), grey.lerp(colours, strength), grey)


def mistakes(image: Tensor, predicted: Tensor, mask: Tensor) -> Tensor:
    """Return an image (C, H, W) with wrong pixels in colour, (3, H, W) in [0, 1].

    Red: the mask has class 0, the prediction another one. Yellow: any other mistake.
    """
    grey = plot.to_unit(image).expand(3, -1, -1)
    wrong = (predicted != mask) & (mask != IGNORE)
    shown = torch.where(wrong & (mask == 0), MISSED[:, None, None], grey)
    return torch.where(wrong & (mask != 0), ADDED[:, None, None], shown)


def comparison(examples: Sequence[dict[str, Tensor]]) -> Tensor:
    """Return one image (3, height, width) with a row for each example: image, prediction over it, mistakes.

    An example has "image" (C, H, W), "predicted" and "mask" (H, W). Images of different sizes are brought to the first one's.
    """
    rows = []
    for example in examples:
        image, predicted, mask = example["image"].float(), example["predicted"], example["mask"]
        rows.append([plot.to_unit(image).expand(3, -1, -1), overlay(image, predicted), mistakes(image, predicted, mask)])
    return _rows(rows)


def predictions(images: Sequence[Tensor], predicted: Sequence[Tensor]) -> Tensor:
    """Return one image (3, height, width) with a row for each image (C, H, W): itself, its classes (H, W) over it."""
    return _rows([[plot.to_unit(image).expand(3, -1, -1), overlay(image, own)] for image, own in zip(images, predicted)])


def _rows(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return images (3, H, W) in rows, each row at the size of the first."""
    lines = [plot.grid(torch.stack(list(row)), columns=len(row), gap=GAP, stretch=False) for row in rows]
    same = [F.interpolate(line[None], lines[0].shape[-2:])[0] for line in lines]
    return plot.grid(torch.stack(same), columns=1, gap=GAP, stretch=False)
