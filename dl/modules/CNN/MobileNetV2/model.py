"""MobileNetV2.

"MobileNetV2: Inverted Residuals and Linear Bottlenecks", Mark Sandler, Andrew Howard, Menglong Zhu, Andrey Zhmoginov,
Liang-Chieh Chen, 2018, https://arxiv.org/abs/1801.04381: the classifier of table 2 ("mobilenet_v2") and its narrower and
wider versions ("mobilenet_v2_0.35" to "mobilenet_v2_1.4", width multipliers of section 6.1). "small" and "tiny" are
ours: for 28x28 on a CPU, and for tests.

Option beyond the paper: stem "small" (stride 1 instead of 2), for images of 28 or 32 pixels.

Deviations:
- Numbers of channels are multiples of 8, and the classifier has dropout; both are in the authors' code
  (https://github.com/tensorflow/models/tree/master/research/slim/nets/mobilenet), not in the paper.
- The weights start as torchvision's, see `init_weights`; the paper does not say how they start.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map, s stride

# Table 2, a row each: expansion t, channels c, blocks n, stride s of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def round_channels(channels: float) -> int:
    """Return the multiple of 8 nearest to `channels`, at least 8; the next larger one where that would lose over a tenth."""
    nearest = max(8, int(channels / 8 + 0.5) * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def conv_norm_act(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a same-padded, optionally strided convolution, a batch norm and min(max(0, x), 6)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False)
    return sequential(conv=conv, norm=nn.BatchNorm2d(out_channels), act=nn.ReLU6())


class InvertedResidual(nn.Module):
    """Table 1: a 1x1 convolution to more channels, a depthwise 3x3 one, and a 1x1 one to few channels again.

    The last is linear (section 3.2: a ReLU would destroy information in so few channels), and the shortcut connects the
    narrow ends. It is there where they have one shape. With expansion 1 there is no first convolution.

    forward: (B, in_channels, X, X) -> (B, out_channels, X/s, X/s).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.body = sequential(
            **({"expand": conv_norm_act(in_channels, hidden, 1)} if expansion != 1 else {}),
            depthwise=conv_norm_act(hidden, hidden, 3, stride, groups=hidden),
            project=sequential(conv=nn.Conv2d(hidden, out_channels, 1, bias=False), norm=nn.BatchNorm2d(out_channels)),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.has_shortcut else self.body(x)


class MobileNetV2(nn.Module):
    """A stem, stages of inverted residuals, a 1x1 convolution, and a linear layer on the mean over the map.

    Images may have any side. Raises `ValueError` for an unknown stem.

    Args:
        stages: (expansion, channels, blocks, stride of the first block) of each stage.
        stem_channels: of the first convolution.
        last_channels: of the last convolution, which the linear layer sees.
        dropout: before the linear layer.
        stem: "imagenet", which halves the side, or "small", which keeps it.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).
    """

    def __init__(
        self,
        stages: tuple[tuple[int, int, int, int], ...] = STAGES,
        stem_channels: int = 32,
        last_channels: int = 1280,
        dropout: float = 0.2,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        strides = {"imagenet": 2, "small": 1}
        if stem not in strides:
            raise ValueError(f"stem is one of {', '.join(strides)}; got {stem!r}")
        self.stem = conv_norm_act(in_channels, stem_channels, 3, strides[stem])
        self.blocks = nn.ModuleList()
        channels = stem_channels
        for expansion, out_channels, depth, stride in stages:
            for i in range(depth):
                self.blocks.append(InvertedResidual(channels, out_channels, stride if i == 0 else 1, expansion))
                channels = out_channels
        self.last = conv_norm_act(channels, last_channels, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(last_channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as torchvision does (https://docs.pytorch.org/vision/stable/models/mobilenetv2.html).

        Convolutions: normal with variance 2 / fan-out, the fan-out being kernel area x output channels, for depthwise
        ones too. The linear layer: normal with std 0.01, bias 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, stem_channels, X/2, X/2), or of side X after a small stem
        for block in self.blocks:
            x = block(x)  # the first of a stage: (B, C, X, X) -> (B, channels, X/s, X/s)
        x = self.last(x)  # (B, C, X, X) -> (B, last_channels, X, X)
        x = self.pool(x).flatten(1)  # (B, last_channels)
        return self.head(self.dropout(x))  # (B, num_classes)


def scaled(width: float) -> dict[str, Any]:
    """The arguments of table 2's network with all channels times `width`; the last ones stay 1280 below width 1 (section 4)."""
    return {
        "stages": tuple((expansion, round_channels(c * width), depth, stride) for expansion, c, depth, stride in STAGES),
        "stem_channels": round_channels(32 * width),
        "last_channels": round_channels(1280 * max(1.0, width)),
    }


PRESETS: dict[str, dict[str, Any]] = {
    "mobilenet_v2": scaled(1.0),
    "mobilenet_v2_0.35": scaled(0.35),
    "mobilenet_v2_0.5": scaled(0.5),
    "mobilenet_v2_0.75": scaled(0.75),
    "mobilenet_v2_1.4": scaled(1.4),
    "small": {
        "stages": ((1, 8, 1, 1), (6, 16, 2, 2), (6, 32, 2, 2), (6, 64, 2, 1)),
        "stem_channels": 16,
        "last_channels": 256,
        "stem": "small",
        "in_channels": 1,
        "num_classes": 10,
    },
    "tiny": {
        "stages": ((1, 8, 1, 1), (4, 16, 2, 2)),
        "stem_channels": 8,
        "last_channels": 32,
        "stem": "small",
        "num_classes": 10,
    },
}


def build(preset: str = "mobilenet_v2", **overrides: Any) -> MobileNetV2:
    """Return a MobileNetV2 by the name of its preset; `overrides` are arguments of `MobileNetV2`."""
    return MobileNetV2(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
