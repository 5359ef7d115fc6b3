"""What lies under boxes: of the maps of a pyramid, and of masks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.layers.boxes import area
from dl.mytorch.layers.roi_align import roi_align

# K boxes, C channels, M side of a mask under a box, H, W an image's height and width


def levels(boxes: Tensor, canonical: float, first: int, last: int) -> Tensor:
    """Return which map of the pyramid boxes (K, 4) are read from: (K,) from `first` to `last`, which have strides of 2^level.

    Equation 1 of https://arxiv.org/abs/1612.03144: a box of canonical^2 pixels is read from level 4, one of half its sides
    from level 3.
    """
    side = area(boxes).sqrt()
    return (4 + (side / canonical).log2() + 1e-6).floor().clamp(first, last).long()


def pool(maps: Sequence[Tensor], strides: Sequence[int], boxes: Sequence[Tensor], side: int, canonical: float) -> Tensor:
    """Return the maps [(B, C, H, W)] under the boxes [(K_i, 4)] of each image: (K, C, side, side), each from one map."""
    numbers = torch.cat([torch.full_like(each[:, :1], i) for i, each in enumerate(boxes)])
    rois = torch.cat([numbers, torch.cat(list(boxes))], dim=1)  # (K, 5)
    first, last = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    level = levels(rois[:, 1:], canonical, first, last)
    pooled = maps[0].new_zeros(len(rois), maps[0].shape[1], side, side)
    for i, (x, stride) in enumerate(zip(maps, strides)):
        here = (level == first + i).nonzero()[:, 0]
        pooled = pooled.index_copy(0, here, roi_align(x, rois[here], (side, side), 1 / stride).to(pooled.dtype))
    return pooled


def paste(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Return masks (K, M, M), resized to their boxes (K, 4), in images of zeros: (K, height, width).

    A border of zeros around the mask lets it end within a pixel, and boxes are whole pixels, as in torchvision. Interpolation
    is a product of matrices, one for rows and one for columns, so that all masks are resized at once.
    """
    side = masks.shape[-1] + 2
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (side / masks.shape[-1])
    start, end = (centre - half).long(), (centre + half).long()
    length = (end - start + 1).clamp(min=1)
    start, length = start.to(masks.dtype), length.to(masks.dtype)
    columns, rows = (_resized(start[:, i], length[:, i], side, limit) for i, limit in enumerate((width, height)))
    return rows @ F.pad(masks, (1, 1, 1, 1)) @ columns.mT


def _resized(start: Tensor, length: Tensor, side: int, limit: int) -> Tensor:
    """Return weights that make of `side` pixels the `length` ones from `start` on, of a line of `limit`: (K, limit, side)."""
    place = torch.arange(limit, device=start.device, dtype=start.dtype) - start[:, None]  # (K, limit)
    inside = (place >= 0) & (place < length[:, None])
    source = ((place + 0.5) * (side / length[:, None]) - 0.5).clamp(0, side - 1)
    distance = (source[:, :, None] - torch.arange(side, device=start.device)).abs()
    return (1 - distance).clamp(min=0) * inside[:, :, None]
