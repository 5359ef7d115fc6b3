"""Random views of images, as tensor operations on a batch whose parameters differ from image to image.

Each of the functions takes images (B, C, H, W), floats from 0 to `BOUND`, and a parameter for each of them, and equals
torchvision's of the same name at that parameter; each of the transforms draws the parameters from the batch's generator.
A transform of torchvision draws them once for a batch, and image by image it takes several times as long.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data.augment import Transform
from dl.mytorch.data.loader import Batch

# B images, C channels, H height, W width
BOUND = 255.0  # of a channel


def resized_crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Return boxes of the images in the size of the images, interpolated bilinearly. `boxes` (B, 4): top, left, height, width.

    What lies beyond a box has no influence, as if it had been cut out first. A box is never larger than its image, so nothing
    shrinks, and no antialiasing is needed.
    """
    height, width = images.shape[2:]
    top, left, tall, wide = boxes.to(images).unbind(1)
    y, x = _places(top, tall, height), _places(left, wide, width)  # (B, H), (B, W), from -1 to 1
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[..., None].expand(-1, -1, width)], dim=-1)  # (B, H, W, 2)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Return `factor` (B,) times the images; what is more than white is white."""
    return (images * _column(factor, images)).clamp_(0, BOUND)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Return images whose differences from their mean grey are `factor` (B,) times as large."""
    return _blend(images, grey(images).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Return images whose differences from their grey version are `factor` (B,) times as large: 0 = grey."""
    return _blend(images, grey(images), factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Return images whose hue is `shift` (B,) of the colour circle further, from -0.5 to 0.5. Grey ones stay as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)  # (B, H, W)
    largest = images.amax(1)
    chroma = largest - images.amin(1)
    scale = 1 / torch.where(chroma > 0, chroma, 1)
    from_green, from_blue = (blue - red) * scale + 2, (red - green) * scale + 4
    sextant = torch.where(largest == red, (green - blue) * scale, torch.where(largest == green, from_green, from_blue))
    sextant = (sextant + 6 * shift.to(images)[:, None, None]).remainder_(6)  # 0 red, 2 green, 4 blue
    far = [2 - (sextant - 3).abs(), (sextant - 2).abs() - 1, (sextant - 4).abs() - 1]  # from each: 0 as it is, 1 or more gone
    return torch.stack([largest - chroma * each.clamp_(0, 1) for each in far], dim=1)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Return images after a Gaussian filter of standard deviation `sigma` (B,) pixels, cut off to `kernel_size`, an odd number.

    The image is mirrored at its border. A sigma of 1e-3 changes nothing.
    """
    half = kernel_size // 2
    offsets = torch.arange(-half, half + 1, device=images.device)
    weights = torch.exp(-0.5 * (offsets / sigma.to(images)[:, None]).square())  # (B, kernel_size)
    weights = weights / weights.sum(1, keepdim=True)
    height, width = images.shape[2:]
    padded = F.pad(images, [half] * 4, mode="reflect")
    rows = sum(_column(weight, images) * padded[:, :, i : i + height] for i, weight in enumerate(weights.unbind(1)))
    return sum(_column(weight, images) * rows[..., i : i + width] for i, weight in enumerate(weights.unbind(1)))


def grey(images: Tensor) -> Tensor:
    """Return the luma of images, (B, 1, H, W), as torchvision weighs the colours."""
    if images.shape[1] == 1:
        return images
    weights = images.new_tensor([0.2989, 0.587, 0.114]).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


# ---- transforms ----------------------------------------------------------------------------------------------------


def random_resized_crop(scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> Transform:
    """A box with a share of the area drawn from `scale`, width / height from `ratio` (evenly in its logarithm), at any place.

    As in torchvision, of ten boxes the first that fits in the image is taken. If none fits, the image stays as it is.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        count, _, height, width = images.shape
        share, shape = torch.rand(2, 10, count, generator=generator)
        area, shape = height * width * (scale[0] + (scale[1] - scale[0]) * share), (low + (high - low) * shape).exp()
        tall, wide = (area / shape).sqrt().round(), (area * shape).sqrt().round()  # (10, B)
        fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
        tries = torch.where(fits, torch.arange(10)[:, None], 10).amin(0, keepdim=True)  # (1, B)
        tall, wide = (
            torch.where(tries < 10, sides.gather(0, tries.clamp(max=9)), whole)[0]
            for sides, whole in ((tall, height), (wide, width))
        )
        down, right = torch.rand(2, count, generator=generator)
        top, left = ((height - tall + 1) * down).floor(), ((width - wide + 1) * right).floor()
        return batch | {"images": resized_crop(images, torch.stack([top, left, tall, wide], dim=1))}

    return apply


def color_jitter(brightness: float, contrast: float, saturation: float, hue: float, probability: float = 1.0) -> Transform:
    """With `probability`, change an image's colours: factors are drawn from 1 - x to 1 + x, the shift of the hue from -x to x.

    The order of the four is drawn for the batch, the rest for each image.
    """
    changes = ((adjust_brightness, brightness), (adjust_contrast, contrast), (adjust_saturation, saturation), (adjust_hue, hue))

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        chosen = torch.rand(len(images), generator=generator) < probability
        for i in torch.randperm(4, generator=generator).tolist():
            change, strength = changes[i]
            base = 0.0 if change is adjust_hue else 1.0  # where nothing changes
            low = base - strength if change is adjust_hue else max(0.0, base - strength)
            drawn = low + (base + strength - low) * torch.rand(len(images), generator=generator)
            if strength:
                images = change(images, torch.where(chosen, drawn, base))
        return batch | {"images": images}

    return apply


def random_grey(probability: float) -> Transform:
    """With `probability`, take the colour from an image."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        kept = torch.rand(len(images), generator=generator) >= probability
        return batch | {"images": adjust_saturation(images, kept.float())}

    return apply


def random_blur(probability: float, kernel_size: int, sigma: tuple[float, float] = (0.1, 2.0)) -> Transform:
    """With `probability`, blur an image by a standard deviation drawn from `sigma`, in pixels."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        chosen, drawn = torch.rand(2, len(images), generator=generator)
        drawn = torch.where(chosen < probability, sigma[0] + (sigma[1] - sigma[0]) * drawn, 1e-3)
        return batch | {"images": gaussian_blur(images, drawn, kernel_size)}

    return apply


def _places(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return where `size` pixels lie in pixels start ... start + length - 1 of an axis of `size`: (B, size) from -1 to 1."""
    centres = (torch.arange(size, device=start.device) + 0.5) * length[:, None] / size - 0.5
    places = start[:, None] + torch.minimum(centres.clamp_(min=0), length[:, None] - 1)
    return 2 * places / max(size - 1, 1) - 1


def _column(values: Tensor, images: Tensor) -> Tensor:
    """Return `values` (B,) as (B, 1, 1, 1), where and of what type the images are."""
    return values.to(images)[:, None, None, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Return factor * images + (1 - factor) * other, between black and white."""
    return torch.lerp(other, images, _column(factor, images)).clamp_(0, BOUND)
