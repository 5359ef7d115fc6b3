"""U-Net.

"U-Net: Convolutional Networks for Biomedical Image Segmentation", Olaf Ronneberger, Philipp Fischer, Thomas Brox, 2015,
https://arxiv.org/abs/1505.04597, section 2 and figure 1.

A contracting path of convolutions and poolings says what is there, an expanding path of up-convolutions says where; at each
resolution the expanding path also reads the map that the contracting path had there.

"unet" is the paper's network: convolutions without padding, so that 572 x 572 pixels give classes for the 388 x 388 in the
middle. "padded" is the variant that most implementations have: the output is as large as the input. "small" is ours for a CPU:
padded, a quarter of the channels, batch norms. "tiny" is for tests.

Deviations:
- Tiles overlap by 4 more pixels than the paper's, so that the grid of the poolings is the same for all of them: what a pixel is
  does not depend on how the image is cut.
- The weights that balance classes (`--balance`, off by default) are those of each mask; the paper's are of the training set.
- Dropout of 0.5 on the two deepest maps of the contracting path: the paper says "at the end of the contracting path".
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import sequential

# B batch, C channels, H height, W width, K classes


def two_convolutions(in_channels: int, out_channels: int, padding: int, norm: bool) -> nn.Sequential:
    """Return two 3x3 convolutions with ReLUs: (B, in, H, W) -> (B, out, H - 4, W - 4), or (B, out, H, W) with padding."""
    layers: dict[str, nn.Module] = {}
    for i, channels in ((1, in_channels), (2, out_channels)):
        layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, 3, padding=padding, bias=not norm)
        if norm:
            layers[f"norm{i}"] = nn.BatchNorm2d(out_channels)
        layers[f"act{i}"] = nn.ReLU()
    return sequential(**layers)


def centre_crop(x: Tensor, height: int, width: int) -> Tensor:
    """Return the middle of a map (B, C, H, W): (B, C, height, width)."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


class Up(nn.Module):
    """A step of the expanding path: (B, 2 C, H, W) and the map of the contracting path (B, C, ...) -> (B, C, ...)."""

    def __init__(self, channels: int, padding: int, norm: bool) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, stride=2)
        self.convolutions = two_convolutions(2 * channels, channels, padding, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.up(x)  # (B, 2 C, H, W) -> (B, C, 2 H, 2 W)
        x = torch.cat([centre_crop(skip, *x.shape[-2:]), x], dim=1)  # (B, 2 C, 2 H, 2 W)
        return self.convolutions(x)


class UNet(nn.Module):
    """forward: images (B, in_channels, H, W) -> logits (B, num_classes, H - 2 margin, W - 2 margin).

    Args:
        width: channels of the first level; each of `depth` poolings doubles them.
        padded: convolutions keep the size; `margin` is 0. Without, it is 92 for the depth of 4.
        norm: a batch norm after each 3x3 convolution.
        tile: side of the output of a tile in `predict`, without padding; sides that no tile has are rounded up.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 2,
        width: int = 64,
        depth: int = 4,
        padded: bool = False,
        norm: bool = False,
        dropout: float = 0.5,
        tile: int = 388,
    ) -> None:
        super().__init__()
        self.num_classes, self.depth, self.padded, self.tile = num_classes, depth, padded, tile
        self.margin = 0 if padded else 6 * 2**depth - 4
        widths = [width * 2**level for level in range(depth + 1)]
        padding = int(padded)
        self.down = nn.ModuleList(
            two_convolutions(*channels, padding, norm) for channels in zip([in_channels, *widths], widths)
        )
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(Up(channels, padding, norm) for channels in widths[-2::-1])
        self.head = nn.Conv2d(width, num_classes, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """Section 3: Gaussian with std sqrt(2 / N), N the inputs of a unit; biases are 0.

        A unit of an up-convolution has one pixel of each channel as its input, because stride and kernel are the same.
        """
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                channels, kernel = module.in_channels, module.kernel_size[0]
                inputs = channels * (kernel**2 if isinstance(module, nn.Conv2d) else 1)
                nn.init.normal_(module.weight, std=math.sqrt(2 / inputs))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        self._check_size(*images.shape[-2:])
        x, skips = images, []
        for level, convolutions in enumerate(self.down):
            x = convolutions(x if level == 0 else F.max_pool2d(x, 2))  # (B, C, H, W) -> (B, 2 C, H/2 - 4, W/2 - 4)
            if level >= self.depth - 1:
                x = self.dropout(x)
            skips.append(x)
        for up, skip in zip(self.up, skips[-2::-1]):
            x = up(x, skip)
        return self.head(x)

    def predict(self, images: Tensor) -> Tensor:
        """Return logits at all pixels of images (B, C, H, W) of any size: (B, K, H, W).

        Figure 2: the overlap-tile strategy. What a tile reads beyond the image is mirrored. Padded networks read it whole.
        """
        height, width = images.shape[-2:]
        overlap = 0 if self.padded else 4 % 2**self.depth
        wanted = (side if self.padded else min(side, self.tile) for side in (height, width))
        sides = [self.output_side(max(side, overlap + 1)) for side in wanted]
        tops, lefts = (range(0, max(1, n - overlap), t - overlap) for n, t in zip((height, width), sides))
        logits = images.new_empty(0)
        for top in tops:
            rows = mirrored(top - self.margin, top + sides[0] + self.margin, height, images.device)
            for left in lefts:
                columns = mirrored(left - self.margin, left + sides[1] + self.margin, width, images.device)
                tile = self(images[..., rows[:, None], columns])  # (B, K, h, w)
                if not logits.numel():
                    logits = tile.new_empty(*tile.shape[:2], height, width)
                target = logits[..., top : top + sides[0], left : left + sides[1]]
                target.copy_(tile[..., : target.shape[-2], : target.shape[-1]])
        return logits

    def output_side(self, least: int) -> int:
        """Return the smallest side, of at least `least` pixels, that the output can have."""
        step, rest = 2**self.depth, 0 if self.padded else 4 % 2**self.depth  # for the depth of 4: 388 = 24 * 16 + 4
        return math.ceil((least - rest) / step) * step + rest

    def _check_size(self, *sides: int) -> None:
        for side in sides:
            output = side - 2 * self.margin
            if output < 1 or self.output_side(output) != output:
                valid = self.output_side(max(1, output)) + 2 * self.margin
                raise ValueError(f"an image of {side} pixels does not pass {self.depth} poolings evenly; the next is {valid}")


def mirrored(start: int, stop: int, size: int, device: torch.device) -> Tensor:
    """Return the places start ... stop - 1 of an axis of `size` pixels, mirrored at both ends as often as it takes."""
    period = max(1, 2 * (size - 1))
    places = torch.arange(start, stop, device=device).abs() % period
    return torch.minimum(places, period - places).clamp(max=size - 1)


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"width": 16, "padded": True, "norm": True},
    "unet": {},
    "padded": {"padded": True},
    "tiny": {"width": 4, "depth": 2, "dropout": 0.0, "tile": 20},
}


def build(preset: str = "small", **overrides: Any) -> UNet:
    """Return a U-Net by the name of its preset; `overrides` are arguments of `UNet`."""
    return UNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, 1, H, W)."""
    side = {"unet": 572, "tiny": 60}.get(preset, 256)
    return (torch.zeros(1, 1, side, side),)
