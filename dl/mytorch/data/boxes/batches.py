"""Images with any number of boxes as one batch, and which part of it is no padding.

An example is a dict: "images" (C, H, W), "boxes" (n, 4) as x0, y0, x1, y1 in pixels, "labels" (n,) from 0 on, and where the set
has them "masks" (n, H, W) of bools and "crowd" (n,). In a batch, images are padded by 0 to the right and below, "sizes" (B, 2)
are their real heights and widths, and the rows of each have a label of -1 where there is no box.
"""

import math
from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data.augment import Transform
from dl.mytorch.data.loader import Batch

PER_BOX = ("boxes", "labels", "masks", "crowd")  # of an example or batch: what has a row for each box
# B batch, N boxes of the image that has most of them, n of one image, C channels, H height, W width


def padded(examples: Sequence[Batch], stride: int = 1, canvas: tuple[int, int] | None = None) -> Batch:
    """Join examples of any sizes. Images become as large as the largest, or as `canvas`, rounded up to multiples of `stride`.

    There is one row for a box at least: a batch without any box has one of label -1.
    """
    sizes = torch.tensor([example["images"].shape[-2:] for example in examples])
    height, width = (math.ceil(side / stride) * stride for side in canvas or sizes.amax(0).tolist())
    rows = max(1, *(len(example["labels"]) for example in examples))
    channels = len(examples[0]["images"])
    shapes = {"images": (channels, height, width), "masks": (rows, height, width), "boxes": (rows, 4)}

    def room(name: str, value: Tensor) -> Tensor:
        full = value.new_full(shapes.get(name, (rows,)), -1 if name == "labels" else 0)
        full[tuple(slice(side) for side in value.shape)] = value
        return full

    return {name: torch.stack([room(name, example[name]) for example in examples]) for name in examples[0]} | {"sizes": sizes}


def real(sizes: Tensor, height: int, width: int) -> Tensor:
    """Return where images of `sizes` (B, 2) are no padding: bools (B, height, width)."""
    rows, columns = (torch.arange(side, device=sizes.device) < sizes[:, i, None] for i, side in enumerate((height, width)))
    return rows[:, :, None] & columns[:, None, :]


def to_input(standard: Transform) -> Transform:
    """Return `standard`, a transform of images of bytes to what the network sees, with a padding of 0 after it as before."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        batch = standard(batch, generator)
        images = batch["images"]
        return batch | {"images": images.masked_fill(~real(batch["sizes"], *images.shape[-2:])[:, None], 0)}

    return apply


def mask_boxes(masks: Tensor) -> Tensor:
    """Return the boxes around masks (..., H, W): floats (..., 4). A pixel in row 0, column 1 is [1, 0, 2, 1]; none all 0."""
    found = masks.any(-2), masks.any(-1)  # (..., W), (..., H)
    low = [line.byte().argmax(-1) for line in found]
    high = [line.shape[-1] - line.flip(-1).byte().argmax(-1) for line in found]
    return (torch.stack([*low, *high], dim=-1) * found[0].any(-1, keepdim=True)).float()


def fit(batch: Batch, stride: int = 1, square: bool = False) -> Batch:
    """Cut or pad the planes of a batch to its largest image, or to the `square` around it, in multiples of `stride`."""
    if not len(batch["sizes"]):  # a rank's part of a short batch
        return batch
    sides = batch["sizes"].amax(0).tolist()
    height, width = (math.ceil(side / stride) * stride for side in ([max(sides)] * 2 if square else sides))

    def change(planes: Tensor) -> Tensor:
        return F.pad(planes, (0, width - planes.shape[-1], 0, height - planes.shape[-2]))

    return batch | {name: change(batch[name]) for name in ("images", "masks") if name in batch}


def select(batch: Batch, kept: Tensor) -> Batch:
    """Keep the boxes that `kept` (B, N) says, with their labels and what else has a row for each; nothing else changes."""
    kept = kept & (batch["labels"] >= 0)
    rows = max([1, *kept.sum(1).tolist()])
    order = (~kept).byte().argsort(dim=1, stable=True)[:, :rows]
    kept = kept.gather(1, order)
    examples = torch.arange(len(kept), device=kept.device)[:, None]

    def change(name: str, value: Tensor) -> Tensor:
        value = value[examples, order]
        return value.masked_fill(~kept.view(*kept.shape, *[1] * (value.ndim - 2)), -1 if name == "labels" else 0)

    return batch | {name: change(name, batch[name]) for name in PER_BOX if name in batch}
