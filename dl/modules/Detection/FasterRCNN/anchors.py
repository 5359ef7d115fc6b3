"""Anchors, the boxes that a network corrects: where they are, which object each is to find, and by what numbers it is moved.

Sections 3.1.1 and 3.1.2 of Faster R-CNN, https://arxiv.org/abs/1506.01497.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dl.mytorch.layers.boxes import iou, to_centres, to_corners

BACKGROUND, BETWEEN = -1, -2  # in place of the number of an object: no object, and neither object nor background
LARGEST_STEP = math.log(1000 / 16)  # of a side's logarithm: exp of more could overflow

# A anchors or proposals of one image, N boxes of its objects, R ratios


def cell_anchors(size: float, ratios: Sequence[float]) -> Tensor:
    """Return boxes of size^2 pixels around (0, 0), of each ratio of height to width: (R, 4), corners rounded to even pixels."""
    sides = [(size / math.sqrt(ratio), size * math.sqrt(ratio)) for ratio in ratios]
    halves = [(round(width / 2), round(height / 2)) for width, height in sides]
    return torch.tensor([[-x, -y, x, y] for x, y in halves], dtype=torch.float32)


def grid_anchors(cell: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Return the anchors `cell` (R, 4) at each place of a map: (height * width * R, 4), row after row.

    They lie around the place's upper left pixel (0, stride, ...), as in torchvision, not around the middle of its square.
    """
    y, x = (torch.arange(side, device=cell.device, dtype=cell.dtype) * stride for side in (height, width))
    places = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).repeat(1, 1, 2)  # (H, W, 4)
    return (places[:, :, None] + cell).view(-1, 4)


def encode(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Return equation 2, what turns anchors (A, 4) into boxes (A, 4): steps of centres, logs of ratios of sides (A, 4)."""
    box, anchor = to_centres(boxes), to_centres(anchors)
    steps = (box[:, :2] - anchor[:, :2]) / anchor[:, 2:]
    return torch.cat([steps, (box[:, 2:] / anchor[:, 2:]).log()], dim=1) * box.new_tensor(weights)


def decode(deltas: Tensor, anchors: Tensor, weights: Sequence[float] = (1, 1, 1, 1)) -> Tensor:
    """Return the boxes (..., 4) into which `deltas` (..., 4) turn anchors (..., 4): the inverse of `encode`."""
    deltas, anchor = deltas / deltas.new_tensor(weights), to_centres(anchors)
    centre = anchor[..., :2] + deltas[..., :2] * anchor[..., 2:]
    return to_corners(torch.cat([centre, anchor[..., 2:] * deltas[..., 2:].clamp(max=LARGEST_STEP).exp()], dim=-1))


def match(quality: Tensor, high: float, low: float, low_quality: bool = False) -> Tensor:
    """Return the number of the object that each anchor is to find, or BACKGROUND or BETWEEN: (A,).

    Args:
        quality: IoU (N, A) of the objects and the anchors.
        high: from here on, an anchor finds the object that it overlaps most.
        low: below, it is background.
        low_quality: section 3.1.2, (i): the anchors that overlap an object most find one, however little that is: the one that
            they overlap most themselves.
    """
    if len(quality) == 0:
        return torch.full(quality.shape[1:], BACKGROUND, device=quality.device)
    best, objects = quality.max(0)
    matched = objects.masked_fill(best < high, BETWEEN).masked_fill(best < low, BACKGROUND)
    if low_quality:
        most = quality.amax(1, keepdim=True)
        matched = torch.where(((quality == most) & (most > 0)).any(0), objects, matched)
    return matched


def overlap_match(boxes: Tensor, anchors: Tensor, high: float, low: float, low_quality: bool = False) -> Tensor:
    """Return `match` of boxes (N, 4) and anchors (A, 4): (A,)."""
    return match(iou(boxes, anchors), high, low, low_quality)


def sample(matched: Tensor, count: int, fraction: float) -> tuple[Tensor, Tensor]:
    """Return anchors drawn from those that find an object, at most count * fraction, and background, up to `count` in all."""
    found, background = (matched >= 0).nonzero()[:, 0], (matched == BACKGROUND).nonzero()[:, 0]
    num_found = min(len(found), int(count * fraction))
    num_background = min(len(background), count - num_found)
    draws = (torch.randperm(len(part), device=part.device) for part in (found, background))
    return found[next(draws)[:num_found]], background[next(draws)[:num_background]]
