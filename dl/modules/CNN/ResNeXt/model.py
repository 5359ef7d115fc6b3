"""ResNeXt.

"Aggregated Residual Transformations for Deep Neural Networks", Saining Xie, Ross Girshick, Piotr Dollar, Zhuowen Tu,
Kaiming He, 2016, https://arxiv.org/abs/1611.05431: the networks for ImageNet of table 1 ("resnext50_32x4d" and deeper
ones) and those for CIFAR of table 7 ("resnext29_8x64d", "resnext29_16x64d"). "32x4d" means 32 paths of 4 channels.
"small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

Deviations:
- The networks for CIFAR have the blocks of those for ImageNet, as in the authors' code,
  https://github.com/facebookresearch/ResNeXt, which reports lower errors so than with the pre-activated blocks that the
  paper's figures come from.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.CNN.ResNet.model import conv, make_shortcut
from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map, s stride


class Block(nn.Module):
    """y = relu(shortcut(x) + the sum of `cardinality` bottlenecks of x), equation 3, as one grouped convolution, figure 3c.

    The paths together have `inner_channels` channels. A map is halved in the 3x3 convolution (section 4).

    forward: (B, in_channels, X, X) -> (B, out_channels, X/s, X/s).
    """

    def __init__(self, in_channels: int, inner_channels: int, out_channels: int, stride: int, cardinality: int) -> None:
        super().__init__()
        self.body = sequential(
            conv1=conv(in_channels, inner_channels, 1),
            norm1=nn.BatchNorm2d(inner_channels),
            act1=nn.ReLU(),
            conv2=nn.Conv2d(inner_channels, inner_channels, 3, stride, padding=1, groups=cardinality, bias=False),
            norm2=nn.BatchNorm2d(inner_channels),
            act2=nn.ReLU(),
            conv3=conv(inner_channels, out_channels, 1),
            norm3=nn.BatchNorm2d(out_channels),
        )
        self.shortcut = make_shortcut("B", in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class ResNeXt(nn.Module):
    """A stem, stages of blocks, and a linear layer on the mean over the map. Images may have any side.

    Args:
        depths: blocks of each stage. The first block of every stage but the first halves the map, and all widths double.
        cardinality: paths of each block.
        group_width: channels inside a path of the first stage, d of "32x4d".
        width: channels of the stem; the blocks of the first stage have four times as many outputs.
        stem: "imagenet", which divides the side by 4, or "small", which keeps it.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).

    Raises `ValueError` for another stem.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        cardinality: int = 32,
        group_width: int = 4,
        width: int = 64,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        if stem not in ("imagenet", "small"):
            raise ValueError(f"stem is one of imagenet, small, not {stem!r}")
        if stem == "imagenet":
            first, pool = conv(in_channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
        else:
            first, pool = conv(in_channels, width, 3), nn.Identity()
        self.stem = sequential(conv=first, norm=nn.BatchNorm2d(width), act=nn.ReLU(), pool=pool)
        self.blocks = nn.ModuleList()
        channels = width
        for stage, depth in enumerate(depths):
            inner_channels, out_channels = cardinality * group_width * 2**stage, 4 * width * 2**stage
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(Block(channels, inner_channels, out_channels, stride, cardinality))
                channels = out_channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Convolutions: normal with variance 2 / fan-out (He et al. 2015b, https://arxiv.org/abs/1502.01852, equation 14).

        Fan-out counts all output channels of a convolution, not those of a group. Norms start at scale 1 and shift 0,
        the head's bias at 0, all as in the authors' code; the head's weights as torch's do.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, width, X/4, X/4), or (B, width, X, X) after a small stem
        for block in self.blocks:
            x = block(x)  # each stage but the first: (B, C, X, X) -> (B, 2C, X/2, X/2)
        x = self.pool(x).flatten(1)  # (B, C, X, X) -> (B, C)
        return self.head(x)  # (B, num_classes)


_CIFAR = {"depths": (3, 3, 3), "group_width": 64, "stem": "small", "num_classes": 10}

PRESETS: dict[str, dict[str, Any]] = {
    "resnext50_32x4d": {"depths": (3, 4, 6, 3)},
    "resnext101_32x4d": {"depths": (3, 4, 23, 3)},
    "resnext101_32x8d": {"depths": (3, 4, 23, 3), "group_width": 8},
    "resnext101_64x4d": {"depths": (3, 4, 23, 3), "cardinality": 64},
    "resnext29_8x64d": {**_CIFAR, "cardinality": 8},
    "resnext29_16x64d": {**_CIFAR, "cardinality": 16},
    "small": {**_CIFAR, "depths": (1, 1, 1), "cardinality": 8, "group_width": 4, "width": 16, "in_channels": 1},
    "tiny": {**_CIFAR, "depths": (2, 1), "cardinality": 4, "group_width": 2, "width": 4},
}


def build(preset: str = "resnext50_32x4d", **overrides: Any) -> ResNeXt:
    """Return a ResNeXt by the name of its preset; `overrides` are arguments of `ResNeXt`.

    Raises `ValueError` for a name that is not in `PRESETS`.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is one of {', '.join(PRESETS)}, not {preset!r}")
    return ResNeXt(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
