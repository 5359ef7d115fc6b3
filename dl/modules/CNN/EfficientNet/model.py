"""EfficientNet.

"EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", Mingxing Tan, Quoc V. Le, 2019,
https://arxiv.org/abs/1905.11946: the network of table 1 ("efficientnet_b0") and those scaled from it in width and depth
("efficientnet_b1" to "efficientnet_b7"). "small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

Option beyond the paper: stem "small" (stride 1 instead of 2), for images of 28 or 32 pixels.

Deviations:
- The paper states the compound scaling rule, but not the factors of each network; they and the parts of the blocks that
  table 1 does not show are those of the authors' code
  (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet).
- Batch norm: the paper's momentum (0.99 there, 0.01 in torch's words) and its code's epsilon 1e-3 are in B5, B6 and B7
  only; B0 to B4 have torch's 0.1 and 1e-5, because their pretrained weights in torchvision need this epsilon.
- Convolutions with stride 2 pad both sides equally, as torchvision's; the authors' code pads right and below first.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.CNN.MobileNetV2.model import round_channels
from dl.mytorch.layers import SqueezeExcitation, StochasticDepth, sequential

# B batch, C channels, X side of a feature map, s stride

# Table 1, stages 2 to 8: expansion, kernel size, stride of the first block, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def conv_norm_act(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a same-padded, optionally strided convolution, a batch norm and x * sigmoid(x)."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False)
    return sequential(conv=conv, norm=nn.BatchNorm2d(out_channels), act=nn.SiLU())


class MBConv(nn.Module):
    """Section 4: MobileNetV2's inverted residual with squeeze and excitation after the depthwise convolution.

    Squeezed to a quarter of the block's input channels, not of the expanded ones. The body is dropped with probability
    `drop` in training, where there is a shortcut to replace it: where input and output have one shape.

    forward: (B, in_channels, X, X) -> (B, out_channels, X/s, X/s).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int, drop: float) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.body = sequential(
            **({"expand": conv_norm_act(in_channels, hidden, 1)} if expansion != 1 else {}),
            depthwise=conv_norm_act(hidden, hidden, kernel_size, stride, groups=hidden),
            se=SqueezeExcitation(hidden, max(1, in_channels // 4), nn.SiLU()),
            project=sequential(conv=nn.Conv2d(hidden, out_channels, 1, bias=False), norm=nn.BatchNorm2d(out_channels)),
        )
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.drop = StochasticDepth(drop if self.has_shortcut else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.body(x))
        return x + y if self.has_shortcut else y


class EfficientNet(nn.Module):
    """A stem, stages of MBConv blocks, a 1x1 convolution, and a linear layer on the mean over the map.

    Images may have any side. Raises `ValueError` for an unknown stem.

    Args:
        stages: (expansion, kernel size, stride of the first block, channels, blocks) of each stage.
        stem_channels: of the first convolution.
        last_channels: of the last convolution, which the linear layer sees.
        dropout: before the linear layer.
        stochastic_depth: block i of n (from 0) is dropped with probability stochastic_depth * i / n.
        norm_eps, norm_momentum: of the batch norms; torch's momentum is the weight of the new batch.
        stem: "imagenet", which halves the side, or "small", which keeps it.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).
    """

    def __init__(
        self,
        stages: tuple[tuple[int, int, int, int, int], ...] = STAGES,
        stem_channels: int = 32,
        last_channels: int = 1280,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        norm_eps: float = 1e-5,
        norm_momentum: float = 0.1,
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
        channels, total = stem_channels, sum(depth for *_, depth in stages)
        for expansion, kernel_size, stride, out_channels, depth in stages:
            for i in range(depth):
                drop = stochastic_depth * len(self.blocks) / total
                self.blocks.append(MBConv(channels, out_channels, kernel_size, stride if i == 0 else 1, expansion, drop))
                channels = out_channels
        self.last = conv_norm_act(channels, last_channels, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(last_channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = norm_eps, norm_momentum
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as the authors' code and torchvision do.

        Convolutions: normal with variance 2 / fan-out, the fan-out being kernel area x output channels, for depthwise
        ones too. The linear layer: uniform within +-1 / sqrt(classes). Biases 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        bound = 1 / math.sqrt(self.head.out_features)
        nn.init.uniform_(self.head.weight, -bound, bound)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, stem_channels, X/2, X/2), or of side X after a small stem
        for block in self.blocks:
            x = block(x)  # the first of a stage: (B, C, X, X) -> (B, channels, X/s, X/s)
        x = self.last(x)  # (B, C, X, X) -> (B, last_channels, X, X)
        x = self.pool(x).flatten(1)  # (B, last_channels)
        return self.head(self.dropout(x))  # (B, num_classes)


def scaled(width: float, depth: float, dropout: float) -> dict[str, Any]:
    """Table 1's network with its channels times `width` and its blocks times `depth`, rounded up (section 3.3)."""
    stages = tuple((*rest, round_channels(width * c), math.ceil(depth * blocks)) for *rest, c, blocks in STAGES)
    channels = {"stem_channels": round_channels(32 * width), "last_channels": round_channels(1280 * width)}
    return {"stages": stages, **channels, "dropout": dropout}


_PAPER_NORM = {"norm_eps": 1e-3, "norm_momentum": 0.01}

PRESETS: dict[str, dict[str, Any]] = {
    "efficientnet_b0": scaled(1.0, 1.0, dropout=0.2),
    "efficientnet_b1": scaled(1.0, 1.1, dropout=0.2),
    "efficientnet_b2": scaled(1.1, 1.2, dropout=0.3),
    "efficientnet_b3": scaled(1.2, 1.4, dropout=0.3),
    "efficientnet_b4": scaled(1.4, 1.8, dropout=0.4),
    "efficientnet_b5": {**scaled(1.6, 2.2, dropout=0.4), **_PAPER_NORM},
    "efficientnet_b6": {**scaled(1.8, 2.6, dropout=0.5), **_PAPER_NORM},
    "efficientnet_b7": {**scaled(2.0, 3.1, dropout=0.5), **_PAPER_NORM},
    "small": {
        "stages": ((1, 3, 1, 8, 1), (6, 3, 2, 16, 2), (6, 5, 2, 32, 2), (6, 3, 1, 64, 2)),
        "stem_channels": 16,
        "last_channels": 256,
        "stochastic_depth": 0.1,
        "stem": "small",
        "in_channels": 1,
        "num_classes": 10,
    },
    "tiny": {
        "stages": ((1, 3, 1, 8, 1), (4, 5, 2, 16, 2)),
        "stem_channels": 8,
        "last_channels": 32,
        "stem": "small",
        "num_classes": 10,
    },
}


def build(preset: str = "efficientnet_b0", **overrides: Any) -> EfficientNet:
    """Return an EfficientNet by the name of its preset; `overrides` are arguments of `EfficientNet`."""
    return EfficientNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
