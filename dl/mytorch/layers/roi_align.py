"""RoIAlign: the part of a map that lies under a box, resampled to a fixed size.

"Mask R-CNN", Kaiming He, Georgia Gkioxari, Piotr Dollár, Ross Girshick, 2017, https://arxiv.org/abs/1703.06870, section 3.

A box is cut into bins, and the output is the mean of the map at the points of a bin, each interpolated between its four nearest
pixels. So an output is a weighted sum of pixels, and a weight is a product, of one along y and one along x.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# B maps in a batch, C channels, H height, W width, K boxes, N bins along an axis, P points of a bin along an axis


def roi_align(
    maps: Tensor, rois: Tensor, size: tuple[int, int], scale: float = 1.0, samples: int = 2, aligned: bool = False
) -> Tensor:
    """Return maps (B, C, H, W) under the boxes: (K, C, *size).

    Args:
        rois: (K, 5), the number of the map in the batch, then x0, y0, x1, y1. They get no gradient.
        scale: pixels of the map per unit of the boxes: 1 / stride.
        samples: points of a bin along each axis; 0 = one per pixel of the map, rounded up.
        aligned: pixel i covers i to i + 1, so its centre is i + 0.5. Without, its centre is i, and each side of a box is at
            least one pixel, as in Mask R-CNN and its pretrained weights.
    """
    return _RoIAlign.apply(maps.to(rois.dtype), rois, scale, *size, samples, aligned).to(maps.dtype)


def crop(maps: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return map k of maps (K, H, W) under box k of boxes (K, 4): (K, *size). It is `roi_align` with `samples` of 0.

    Two products of matrices, because where boxes are much larger than `size`, bins have too many points to list.
    """
    x, y = (_axis(start, length, bins, 0, limit) for start, length, bins, limit in _sides(boxes, size, maps, aligned=False))
    return _matrix(*y, maps.shape[-2]) @ maps.to(boxes.dtype) @ _matrix(*x, maps.shape[-1]).mT


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, rois: Tensor, *options: Any) -> Tensor:
        ctx.save_for_backward(rois)
        ctx.shape, ctx.options = maps.shape, options
        return pool(maps, rois, *options)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scale, height, width, samples, aligned = ctx.options
        (rois,) = ctx.saved_tensors
        return pool_backward(gradient, rois, scale, height, width, *ctx.shape, samples, aligned), *[None] * 6


def pool(maps: Tensor, rois: Tensor, scale: float, height: int, width: int, samples: int, aligned: bool) -> Tensor:
    """`roi_align` without its derivative; the arguments are those of torchvision's operator."""
    channels = maps.shape[1]
    if len(rois) == 0:
        return maps.new_zeros(0, channels, height, width)
    pixels, weights = _bags(rois, scale, (height, width), samples, aligned, maps)
    table = maps.permute(0, 2, 3, 1).reshape(-1, channels)  # (B, C, H, W) -> (B H W, C)
    pooled = F.embedding_bag(pixels, table, per_sample_weights=weights, mode="sum")  # (K height width, C)
    return pooled.view(len(rois), height, width, channels).permute(0, 3, 1, 2).contiguous()


def pool_backward(
    gradient: Tensor,
    rois: Tensor,
    scale: float,
    height: int,
    width: int,
    batch: int,
    channels: int,
    map_height: int,
    map_width: int,
    samples: int,
    aligned: bool,
) -> Tensor:
    """Return the gradient of the maps, (batch, channels, map_height, map_width), for that of the output of `pool`."""
    maps = gradient.new_zeros(batch, map_height, map_width, channels).permute(0, 3, 1, 2)
    if len(rois):
        pixels, weights = _bags(rois, scale, (height, width), samples, aligned, maps)
        table = maps.permute(0, 2, 3, 1).view(-1, channels)
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, channels)
        for pixel, weight in zip(pixels.T, weights.T):  # one round for each pixel that an output reads, 16 with two samples
            table.index_add_(0, pixel, rows * weight[:, None])
    return maps.contiguous()


def _bags(
    rois: Tensor, scale: float, size: tuple[int, int], samples: int, aligned: bool, maps: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what each output reads: pixels of the batch, counted through, and their weights, both (K height width, 4 P P)."""
    (x, x_weight), (y, y_weight) = (
        _axis(start, length, bins, samples, limit)
        for start, length, bins, limit in _sides(rois[:, 1:] * scale, size, maps, aligned)
    )
    height, width = maps.shape[-2:]
    first = rois[:, 0].long() * (height * width)
    pixels = first[:, None, None, None, None] + y[:, :, None, :, None] * width + x[:, None, :, None, :]
    weights = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]  # (K, N, N, 2 P, 2 P)
    return pixels.flatten(3).flatten(0, 2), weights.flatten(3).flatten(0, 2)


def _sides(boxes: Tensor, size: tuple[int, int], maps: Tensor, aligned: bool) -> list[tuple[Tensor, Tensor, int, int]]:
    """Return for x and for y where the boxes (K, 4) start, how long they are, the bins, and the pixels of the map."""
    start, end = (boxes - 0.5 if aligned else boxes).chunk(2, dim=1)
    length = end - start if aligned else (end - start).clamp(min=1)
    return [(start[:, i], length[:, i], size[1 - i], maps.shape[-1 - i]) for i in (0, 1)]


def _axis(start: Tensor, length: Tensor, bins: int, samples: int, limit: int) -> tuple[Tensor, Tensor]:
    """Return the pixels that each bin reads along one axis, and their weights, both (K, N, 2 P).

    Points further than one pixel beyond the map are 0, others beyond it are those of its border.
    """
    step = (length / bins)[:, None, None]  # (K, 1, 1)
    counts = torch.full_like(step, samples) if samples > 0 else step.ceil()
    point = torch.arange(max(int(counts.max()), 1) if len(counts) else 1, device=step.device, dtype=step.dtype)  # (P,)
    bin_starts = start[:, None, None] + torch.arange(bins, device=step.device, dtype=step.dtype)[:, None] * step
    at = bin_starts + (point + 0.5) * (step / counts.clamp(min=1))  # (K, N, P)
    counted = (point < counts) & (at >= -1) & (at <= limit)
    at = at.clamp(0, limit - 1)
    low = at.long()
    part = at - low
    weights = torch.cat([1 - part, part], dim=-1) * (counted / counts.clamp(min=1)).repeat(1, 1, 2)
    return torch.cat([low, (low + 1).clamp(max=limit - 1)], dim=-1), weights


def _matrix(pixels: Tensor, weights: Tensor, limit: int) -> Tensor:
    """Return what `_axis` found as matrices: (K, N, limit)."""
    return weights.new_zeros(*weights.shape[:2], limit).scatter_add_(2, pixels, weights)
