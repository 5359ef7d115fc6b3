"""Boxes (N, 4) as x0, y0, x1, y1 in pixels: overlaps, and the suppression of what was found twice.

There is no "+ 1": a box of one pixel is [0, 0, 1, 1].
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Detections(NamedTuple):
    """What a detector finds in one image, the surest first."""

    boxes: Tensor  # (n, 4)
    labels: Tensor  # (n,), classes from 0 on, without the background
    scores: Tensor  # (n,), in [0, 1]
    masks: Tensor | None = None  # (n, H, W) of bools, of networks that find masks


def area(boxes: Tensor) -> Tensor:
    """Return the areas of boxes (..., 4): (...)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def shorter_sides(boxes: Tensor) -> Tensor:
    """Return the shorter side of boxes (..., 4): (...). It is not above 0 for one without area."""
    return (boxes[..., 2:] - boxes[..., :2]).amin(-1)


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Return the areas that boxes (..., N, 4) and (..., M, 4) have in common: (..., N, M)."""
    low = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Return intersection over union of boxes (..., N, 4) and (..., M, 4): (..., N, M). NaN for two empty boxes."""
    common = intersection(first, second)
    return common / (area(first)[..., :, None] + area(second)[..., None, :] - common)


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return IoU less the share of the smallest box around both that neither covers: (..., N, M), in [-1, 1].

    Rezatofighi et al. 2019, algorithm 1, https://arxiv.org/abs/1902.09630.
    """
    common = intersection(first, second)
    union = area(first)[..., :, None] + area(second)[..., None, :] - common
    low = torch.minimum(first[..., :, None, :2], second[..., None, :, :2])
    high = torch.maximum(first[..., :, None, 2:], second[..., None, :, 2:])
    around = (high - low).prod(-1)
    return common / union - (around - union) / around


def to_centres(boxes: Tensor) -> Tensor:
    """Return boxes (..., 4) of corners as centre x, centre y, width, height."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def to_corners(boxes: Tensor) -> Tensor:
    """Return boxes (..., 4) of centre x, centre y, width, height as corners."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """Return boxes (..., 4) cut at the edges of an image."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    zero = boxes.new_zeros(())
    limits = [torch.as_tensor(side, dtype=boxes.dtype, device=boxes.device) for side in (width, height, width, height)]
    return torch.stack([side.maximum(zero).minimum(limit) for side, limit in zip((x0, y0, x1, y1), limits)], dim=-1)


def nms(boxes: Tensor, scores: Tensor, threshold: float, labels: Tensor | None = None, block: int = 512) -> Tensor:
    """Return the places of the boxes (N, 4) that no surer one covers by more than `threshold` in IoU, the surest first: (K,).

    Of equal scores (N,) the first wins. Boxes of different `labels` (N,) do not suppress each other.

    The greedy choice without a loop over boxes: in a block, "kept are those that no kept one before covers" is repeated from
    all on until nothing changes. After round r all is settled that hangs on chains of fewer than r boxes, so this ends.
    """
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    order = scores.argsort(descending=True, stable=True)
    boxes, labels = boxes[order], None if labels is None else labels[order]
    places = torch.arange(len(boxes), device=boxes.device)

    def covered(first: Tensor, second: Tensor) -> Tensor:
        over = iou(boxes[first], boxes[second]).double() > threshold  # NaN, of empty boxes, is not
        return over if labels is None else over & (labels[first][:, None] == labels[second])

    kept = places[:0]
    for here in places.split(block):
        here = here[~covered(kept, here).any(0)]
        over = covered(here, here).triu(1)
        keep = torch.ones_like(here, dtype=torch.bool)
        while not torch.equal(keep, new := ~(over & keep[:, None]).any(0)):
            keep = new
        kept = torch.cat([kept, here[keep]])
    return order[kept]
