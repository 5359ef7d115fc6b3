"""WideResNet.

"Wide Residual Networks", Sergey Zagoruyko, Nikos Komodakis, 2016, https://arxiv.org/abs/1605.07146: the networks
WRN-depth-width for CIFAR and SVHN of table 1 ("wrn_28_10" and others), from pre-activated blocks B(3,3) with dropout
between the convolutions as an option (section 3.4), and WRN-50-2-bottleneck for ImageNet ("wide_resnet50_2" and
torchvision's deeper "wide_resnet101_2"): a ResNet whose bottlenecks are twice as wide inside, which is a ResNeXt of one
group. "small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

What the paper leaves open is done as in the authors' code, https://github.com/szagoruyko/wide-residual-networks: a
projection takes the normed and activated input, dropout comes right before the second convolution, and the bias of the
head starts at 0. The stem "imagenet" of a WRN-depth-width is ours, for images larger than the paper's 32 pixels.

Deviations:
- wide_resnet50_2 halves the map in the 3x3 convolution of a bottleneck, as torchvision and its pretrained weights.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.CNN.ResNet.model import conv
from dl.modules.CNN.ResNeXt.model import ResNeXt
from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map, s stride, k widening factor


class Block(nn.Module):
    """B(3,3) of section 3: y = body(preact(x)) + shortcut(x); a shortcut that projects takes preact(x) too.

    forward: (B, in_channels, X, X) -> (B, out_channels, X/s, X/s).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.preact = sequential(norm=nn.BatchNorm2d(in_channels), act=nn.ReLU())
        self.body = sequential(
            conv1=conv(in_channels, out_channels, 3, stride),
            norm=nn.BatchNorm2d(out_channels),
            act=nn.ReLU(),
            dropout=nn.Dropout(dropout),
            conv2=conv(out_channels, out_channels, 3),
        )
        self.projects = stride > 1 or in_channels != out_channels
        self.shortcut = conv(in_channels, out_channels, 1, stride) if self.projects else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated = self.preact(x)
        return self.body(activated) + self.shortcut(activated if self.projects else x)


class WideResNet(nn.Module):
    """Table 1: a stem of 16 channels, three stages of 16k, 32k and 64k channels, norm, mean over the map, linear layer.

    Args:
        depth: convolutions, the three projections included: 6n + 4 for n blocks in each stage.
        width: k, by which the stages are wider than a ResNet's for CIFAR.
        dropout: share of the activations that are dropped between the two convolutions of a block, while training.
        stem: "small", which keeps the side, or "imagenet", which divides it by 4.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).

    Raises `ValueError` for a depth that is not 6n + 4, and for another stem.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
        stem: str = "small",
    ) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth is 6n + 4 for n = 1, 2, ... blocks in each stage, not {depth}")
        if stem not in ("imagenet", "small"):
            raise ValueError(f"stem is one of imagenet, small, not {stem!r}")
        if stem == "imagenet":
            self.stem = sequential(conv=conv(in_channels, 16, 7, stride=2), pool=nn.MaxPool2d(3, stride=2, padding=1))
        else:
            self.stem = sequential(conv=conv(in_channels, 16, 3))
        self.blocks = nn.ModuleList()
        channels = 16
        for stage in range(3):
            for i in range((depth - 4) // 6):
                stride = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(Block(channels, 16 * width * 2**stage, stride, dropout))
                channels = 16 * width * 2**stage
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Convolutions: normal with variance 2 / fan-out (He et al. 2015b, https://arxiv.org/abs/1502.01852, equation 14).

        Norms start at scale 1 and shift 0, the head's bias at 0 as in the authors' code, its weights as torch's do.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, 16, X, X), or (B, 16, X/4, X/4) after the other stem
        for block in self.blocks:
            x = block(x)  # stages: (B, 16, X, X) -> (B, 16k, X, X) -> (B, 32k, X/2, X/2) -> (B, 64k, X/4, X/4)
        x = self.act(self.norm(x))
        x = self.pool(x).flatten(1)  # (B, 64k, X/4, X/4) -> (B, 64k)
        return self.head(x)  # (B, num_classes)


# Arguments of `ResNeXt`: bottlenecks in one group, twice as wide inside as a ResNet's.
BOTTLENECKS: dict[str, dict[str, Any]] = {
    "wide_resnet50_2": {"depths": (3, 4, 6, 3), "cardinality": 1, "group_width": 128},
    "wide_resnet101_2": {"depths": (3, 4, 23, 3), "cardinality": 1, "group_width": 128},
}
# All others are arguments of `WideResNet`.
PRESETS: dict[str, dict[str, Any]] = {
    "wrn_28_10": {"depth": 28, "width": 10},
    "wrn_40_4": {"depth": 40, "width": 4},
    "wrn_16_8": {"depth": 16, "width": 8},
    "wrn_40_2": {"depth": 40, "width": 2},
    "wrn_40_8": {"depth": 40, "width": 8},
    "wrn_28_12": {"depth": 28, "width": 12},
    "wrn_22_8": {"depth": 22, "width": 8},
    "wrn_22_10": {"depth": 22, "width": 10},
    "wrn_16_10": {"depth": 16, "width": 10},
    "wrn_16_4": {"depth": 16, "width": 4},
    **BOTTLENECKS,
    "small": {"depth": 10, "width": 2, "in_channels": 1},
    "tiny": {"depth": 10, "width": 1},
}


def build(preset: str = "wrn_28_10", **overrides: Any) -> WideResNet | ResNeXt:
    """A `ResNeXt` for the names in `BOTTLENECKS`, a `WideResNet` for all others; `overrides` are arguments of that class.

    Raises `ValueError` for a name that is not in `PRESETS`.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is one of {', '.join(PRESETS)}, not {preset!r}")
    network = ResNeXt if preset in BOTTLENECKS else WideResNet
    return network(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 224 if preset in BOTTLENECKS else 32
    return (torch.zeros(1, channels, size, size),)
