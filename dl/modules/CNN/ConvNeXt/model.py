"""ConvNeXt.

"A ConvNet for the 2020s", Zhuang Liu, Hanzi Mao, Chao-Yuan Wu, Christoph Feichtenhofer, Trevor Darrell, Saining Xie, 2022,
https://arxiv.org/abs/2201.03545: the networks of section 3 ("convnext_tiny" to "convnext_large") with the stochastic
depth that the paper trains them with (table 5). "small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

Option beyond the paper: stem "small" (2x2 patches instead of 4x4), for images of 28 or 32 pixels.

Deviations: none.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import StochasticDepth, sequential

# B batch, C channels, X side of a feature map


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel. forward: (B, C, X, X) -> (B, C, X, X)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, C, X, X) -> (B, X, X, C) -> (B, C, X, X)


class LayerScale(nn.Module):
    """Multiplies each channel by a learnt weight that starts close to 0 (Touvron et al. 2021, https://arxiv.org/abs/2103.17239).

    forward: (..., channels) -> (..., channels).
    """

    def __init__(self, channels: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Block(nn.Module):
    """x + body(x), figure 4, right: a depthwise 7x7 convolution, and at each pixel a layer norm and an inverted bottleneck.

    The 1x1 convolutions of the bottleneck are linear layers on maps with the channels last, where the norm is fastest too.
    In training the body is dropped with probability `drop`.

    forward: (B, channels, X, X) -> (B, channels, X, X).
    """

    def __init__(self, channels: int, layer_scale: float, drop: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.project = nn.Linear(4 * channels, channels)
        self.layer_scale = LayerScale(channels, layer_scale)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (B, C, X, X) -> (B, X, X, C)
        y = self.project(self.act(self.expand(self.norm(y))))  # (B, X, X, C) -> (B, X, X, 4C) -> (B, X, X, C)
        y = self.layer_scale(y).permute(0, 3, 1, 2)  # (B, X, X, C) -> (B, C, X, X)
        return x + self.drop(y)


class Stage(nn.Module):
    """Blocks, one for each probability in `drops`; before them `downsample`.

    forward: (B, C, X, X) -> (B, channels, X/2, X/2), or of side X without downsampling.
    """

    def __init__(self, downsample: nn.Module, channels: int, layer_scale: float, drops: list[float]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(Block(channels, layer_scale, drop) for drop in drops)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x)  # (B, C, X, X) -> (B, channels, X/2, X/2)
        for block in self.blocks:
            x = block(x)
        return x


def halve(in_channels: int, out_channels: int) -> nn.Sequential:
    """Section 2.6: between stages a norm, without which training diverges, and a 2x2 convolution with stride 2."""
    return sequential(norm=LayerNorm2d(in_channels, eps=1e-6), conv=nn.Conv2d(in_channels, out_channels, 2, stride=2))


class ConvNeXt(nn.Module):
    """Patches, stages of blocks with a halving of the map between them, and a linear layer on the normed mean over the map.

    Images may have any side of at least patch x 2^(stages - 1); pixels that fill no patch are left out. Raises
    `ValueError` for an unknown stem, or for depths and widths of different length.

    Args:
        depths, widths: blocks and channels of each stage.
        layer_scale: where the weights of `LayerScale` start.
        stochastic_depth: the last block is dropped with this probability, the first never, those between in proportion.
        stem: "imagenet", 4x4 patches, or "small", 2x2 ones.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        layer_scale: float = 1e-6,
        stochastic_depth: float = 0.0,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        patches = {"imagenet": 4, "small": 2}
        if stem not in patches:
            raise ValueError(f"stem is one of {', '.join(patches)}; got {stem!r}")
        if len(depths) != len(widths):
            raise ValueError(f"depths and widths have one number for each stage; got {depths} and {widths}")
        patch, channels = patches[stem], widths[0]
        self.stem = sequential(conv=nn.Conv2d(in_channels, channels, patch, stride=patch), norm=LayerNorm2d(channels, eps=1e-6))
        total = sum(depths)
        drops = [stochastic_depth * i / max(1, total - 1) for i in range(total)]
        self.stages = nn.ModuleList()
        for depth, width in zip(depths, widths):
            downsample = halve(channels, width) if self.stages else nn.Identity()
            self.stages.append(Stage(downsample, width, layer_scale, drops[:depth]))
            channels, drops = width, drops[depth:]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw kernels and matrices from a normal of std 0.02, cut at +-2, as the authors' code; biases are 0."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, C, X/4, X/4), or X/2 with a small stem
        for stage in self.stages:
            x = stage(x)  # each but the first: (B, C, X, X) -> (B, width, X/2, X/2)
        x = self.pool(x).flatten(1)  # (B, C, X, X) -> (B, C)
        return self.head(self.norm(x))  # (B, num_classes)


PRESETS: dict[str, dict[str, Any]] = {
    "convnext_tiny": {"depths": (3, 3, 9, 3), "widths": (96, 192, 384, 768), "stochastic_depth": 0.1},
    "convnext_small": {"depths": (3, 3, 27, 3), "widths": (96, 192, 384, 768), "stochastic_depth": 0.4},
    "convnext_base": {"depths": (3, 3, 27, 3), "widths": (128, 256, 512, 1024), "stochastic_depth": 0.5},
    "convnext_large": {"depths": (3, 3, 27, 3), "widths": (192, 384, 768, 1536), "stochastic_depth": 0.5},
    "small": {"depths": (2, 2, 2), "widths": (40, 80, 160), "stem": "small", "in_channels": 1, "num_classes": 10},
    "tiny": {"depths": (1, 2), "widths": (8, 16), "stochastic_depth": 0.1, "stem": "small", "num_classes": 10},
}


def build(preset: str = "convnext_tiny", **overrides: Any) -> ConvNeXt:
    """Return a ConvNeXt by the name of its preset; `overrides` are arguments of `ConvNeXt`."""
    return ConvNeXt(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
