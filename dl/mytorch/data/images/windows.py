"""Changes of an image and of its mask together: crops, flips, scaling, elastic deformation, as one map of coordinates.

Where each pixel of the result comes from is computed first, (B, S, S, 2) rows and columns; then images are interpolated
bilinearly and masks take the nearest pixel at the same places, so a mask never gets a class that it did not have. Beyond its
edge an image is mirrored. What else has coordinates can follow the same map.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data.loader import Batch, Transform

IGNORE = 255  # the class of pixels that count neither in a loss nor in a metric, padding among them

# B batch, S side of a window, C channels, H height, W width


def random_windows(
    size: int,
    margin: int = 0,
    flips: bool = True,
    scale: tuple[float, float] = (1.0, 1.0),
    elastic: float = 0.0,
) -> Transform:
    """Return a transform that cuts a random window out of each example. Images may be bytes, and stay so.

    "masks", and "weights" if there are some, become (B, size, size), "images" (B, C, size + 2 margin, size + 2 margin): the
    surroundings that a network with valid convolutions reads. Of padded images, "sizes" (B, 2) says how much is real.

    Args:
        flips: each of the eight symmetries of a square with the same probability.
        scale: objects become larger by a factor drawn log-uniformly between these two.
        elastic: std in pixels of the displacements, see `elastic_field`; 0 = none.
    """
    low, high = (math.log(factor) for factor in scale)

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"]
        count, device = len(images), images.device
        sizes = batch.get("sizes", torch.tensor(images.shape[-2:]).expand(count, 2)).cpu()
        place = torch.rand(count, 2, generator=generator, dtype=torch.float64)  # in float32 the last place may come out
        start = (place * ((sizes - size).clamp(min=0) + 1)).floor().float()
        symmetry = torch.rand(count, 3, generator=generator) < (0.5 if flips else 0.0)
        factor = (low + (high - low) * torch.rand(count, generator=generator)).exp()
        side = size + 2 * margin
        coordinates = window(start + (size - 1) / 2, side, symmetry, factor)
        if elastic:
            coordinates = coordinates + elastic_field(count, side, elastic, generator)
        coordinates = mirrored(coordinates, sizes).to(device)
        inner = coordinates[:, margin : side - margin, margin : side - margin]
        planes = {name: nearest(batch[name], inner) for name in ("masks", "weights") if name in batch}
        kept = {name: value for name, value in batch.items() if name != "sizes"}  # all of a window is real
        return kept | planes | {"images": bilinear(images, coordinates)}

    return apply


def jitter(contrast: float, brightness: float) -> Transform:
    """Return a transform of images of bytes: x -> mean + c (x - mean) + b, both drawn for each image.

    c is uniform in 1 +- `contrast`, b in +- 255 `brightness`. Of padded images, "sizes" (B, 2) says how much is real: only that
    counts in the mean.
    """

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        drawn = (torch.rand(2, len(images), 1, 1, 1, generator=generator) * 2 - 1).to(images.device)
        mean = images.mean((1, 2, 3), keepdim=True)
        if "sizes" in batch:  # padding is 0
            mean = mean * (images.shape[-2] * images.shape[-1] / batch["sizes"].prod(1).to(images.device))[:, None, None, None]
        changed = mean + (1 + contrast * drawn[0]) * (images - mean) + 255 * brightness * drawn[1]
        return batch | {"images": changed.clamp(0, 255).round().to(batch["images"].dtype)}

    return apply


def window(centre: Tensor, side: int, symmetry: Tensor, factor: Tensor) -> Tensor:
    """Return the places (B, side, side, 2), rows and columns, that a window around `centre` (B, 2) shows.

    `symmetry` (B, 3) of bools: upside down, left to right, rows and columns exchanged; `factor` (B,): how much larger.
    """
    offsets = torch.arange(side) - (side - 1) / 2  # (S,)
    grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1)  # (S, S, 2)
    grid = torch.where(symmetry[:, 2, None, None, None], grid.flip(-1), grid)  # (B, S, S, 2)
    grid = torch.where(symmetry[:, None, None, :2], -grid, grid)
    return centre[:, None, None] + grid / factor[:, None, None, None]


def elastic_field(count: int, side: int, std: float, generator: torch.Generator) -> Tensor:
    """Return displacements (B, side, side, 2) in pixels: Gaussian on a grid of 3 x 3, bicubic in between.

    Ronneberger et al. 2015, section 3.1, with a std of 10, https://arxiv.org/abs/1505.04597.
    """
    coarse = torch.randn(count, 2, 3, 3, generator=generator) * std
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def mirrored(coordinates: Tensor, sizes: Tensor) -> Tensor:
    """Return coordinates (B, ..., 2) inside images of `sizes` (B, 2): mirrored at the edges, whose pixels are not repeated."""
    last = (sizes - 1).view(-1, *[1] * (coordinates.ndim - 2), 2).to(coordinates)
    folded = coordinates.abs() % (2 * last).clamp(min=1)
    return torch.minimum(folded, 2 * last - folded).clamp(min=0)  # 0 where there is one pixel


def bilinear(images: Tensor, coordinates: Tensor) -> Tensor:
    """Return images (B, C, H, W) at coordinates (B, h, w, 2) inside them: (B, C, h, w), of the same type."""
    height, width = images.shape[-2:]
    last = torch.tensor([height - 1, width - 1], device=images.device).clamp(min=1)
    places = (2 * coordinates / last - 1).flip(-1)  # x before y
    found = F.grid_sample(images.float(), places, padding_mode="border", align_corners=True)
    return found if images.is_floating_point() else found.round().to(images.dtype)


def nearest(planes: Tensor, coordinates: Tensor) -> Tensor:
    """Return planes (B, H, W) at the nearest pixels to coordinates (B, h, w, 2): (B, h, w)."""
    rows, columns = coordinates.round().long().unbind(-1)
    return planes[torch.arange(len(planes), device=planes.device)[:, None, None], rows, columns]
