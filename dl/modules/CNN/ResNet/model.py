"""ResNet.

"Deep Residual Learning for Image Recognition", Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, 2015,
https://arxiv.org/abs/1512.03385: the networks for ImageNet of table 1 ("resnet18" to "resnet152") and those for
CIFAR-10 of section 4.2 ("resnet20" to "resnet110"). "small" and "medium" are ours, for 28x28 on a CPU, and "tiny", for tests.

Options beyond the paper:
- stem "small" (3x3, stride 1, no pooling) is the paper's for CIFAR; here any preset takes it, for images of 28 or 32.
  stem "pool" is ours, for networks that train in minutes on a CPU: 3x3, then 2x2 pooling before norm and activation.
- se_reduction above 0: every block recalibrates its channels by squeeze and excitation (Hu et al. 2017,
  https://arxiv.org/abs/1709.01507, figure 3; the paper's reduction is 16).
- zero_init: blocks start as their shortcut (Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 5.1).

Deviations:
- V1.5: a bottleneck that shrinks the map does so in its 3x3 convolution, as torchvision and all its pretrained weights;
  the paper's is stride_in="1x1".
- Shortcut A: the paper does not say where its zero channels go. Ours are half before and half after the others, as in
  https://github.com/akamaster/pytorch_resnet_cifar10, whose pretrained weights need this place.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import SqueezeExcitation, sequential

# B batch, C channels, X side of a feature map, s stride


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Return a same-padded, optionally strided convolution. It has no bias because a batch norm follows."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)


class PaddedShortcut(nn.Module):
    """Shortcut A, section 3.3: identity without parameters; every s-th pixel, and zeros for the channels that are new."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        before = (out_channels - in_channels) // 2
        self.padding = (before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]  # (B, C, X, X) -> (B, C, X/s, X/s)
        return F.pad(x, (0, 0, 0, 0, *self.padding))  # (B, C, X/s, X/s) -> (B, out_channels, X/s, X/s)


def make_shortcut(option: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Section 4.1: "A" pads with zeros where the shape changes, "B" projects there, "C" projects in every block."""
    if option not in ("A", "B", "C"):
        raise ValueError(f'shortcut {option!r}: section 4.1 has "A", "B" and "C"')
    if option != "C" and stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if option == "A":
        return PaddedShortcut(in_channels, out_channels, stride)
    return sequential(conv=conv(in_channels, out_channels, 1, stride), norm=nn.BatchNorm2d(out_channels))


def make_stem(kind: str, in_channels: int, width: int) -> nn.Sequential:
    """Return the first convolution: (B, in_channels, X, X) -> (B, width, X/4, X/4), or as `kind` says, see `ResNet`."""
    if kind not in ("imagenet", "small", "pool"):
        raise ValueError(f'stem {kind!r}: there are "imagenet", "small" and "pool"')
    norm, act = nn.BatchNorm2d(width), nn.ReLU()
    if kind == "imagenet":
        first, pool = conv(in_channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
        return sequential(conv=first, norm=norm, act=act, pool=pool)
    if kind == "pool":  # norm and activation come where the map is small already
        return sequential(conv=conv(in_channels, width, 3), pool=nn.MaxPool2d(2), norm=norm, act=act)
    return sequential(conv=conv(in_channels, width, 3), norm=norm, act=act)


class Block(nn.Module):
    """y = relu(body(x) + shortcut(x)), equations 1 and 2. The body is that of figure 5: left "basic", right "bottleneck".

    forward: (B, in_channels, X, X) -> (B, width * EXPANSION[kind], X/s, X/s).
    """

    EXPANSION = {"basic": 1, "bottleneck": 4}

    def __init__(
        self, kind: str, in_channels: int, width: int, stride: int, shortcut: str, stride_in: str, se_reduction: int
    ) -> None:
        super().__init__()
        if kind not in self.EXPANSION or stride_in not in ("1x1", "3x3"):
            raise ValueError(f'kind {kind!r} is one of "basic" and "bottleneck", stride_in {stride_in!r} of "1x1" and "3x3"')
        out_channels = width * self.EXPANSION[kind]
        if kind == "basic":
            self.body = sequential(
                conv1=conv(in_channels, width, 3, stride),
                norm1=nn.BatchNorm2d(width),
                act1=nn.ReLU(),
                conv2=conv(width, width, 3),
                norm2=nn.BatchNorm2d(width),
            )
        else:
            first, second = {"1x1": (stride, 1), "3x3": (1, stride)}[stride_in]
            self.body = sequential(
                conv1=conv(in_channels, width, 1, first),
                norm1=nn.BatchNorm2d(width),
                act1=nn.ReLU(),
                conv2=conv(width, width, 3, second),
                norm2=nn.BatchNorm2d(width),
                act2=nn.ReLU(),
                conv3=conv(width, out_channels, 1),
                norm3=nn.BatchNorm2d(out_channels),
            )
        if se_reduction:
            self.body.add_module("se", SqueezeExcitation(out_channels, max(1, out_channels // se_reduction), nn.ReLU()))
        self.shortcut = make_shortcut(shortcut, in_channels, out_channels, stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of blocks, and a linear layer on the mean over the map. Images may have any side.

    Args:
        depths: blocks of each stage. The first block of every stage but the first halves the map; `width`, the channels
            inside the blocks of the first stage, doubles from stage to stage.
        kind: "basic" or "bottleneck", see `Block`.
        stem: "imagenet" (7x7, then pooling) divides the side by 4, "pool" (3x3, then pooling) by 2, "small" (3x3) keeps it.
        shortcut: option "A", "B" or "C" of section 4.1, see `make_shortcut`.
        stride_in: the convolution of a bottleneck that halves the map, "3x3" (V1.5) or "1x1" (the paper).
        se_reduction: reduction of squeeze and excitation; 0 = without.
        zero_init: the scale of each block's last norm starts at 0.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        kind: str = "basic",
        width: int = 64,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
        shortcut: str = "B",
        stride_in: str = "3x3",
        se_reduction: int = 0,
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        self.stem = make_stem(stem, in_channels, width)
        self.blocks = nn.ModuleList()
        channels = width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(Block(kind, channels, width * 2**stage, stride, shortcut, stride_in, se_reduction))
                channels = width * 2**stage * Block.EXPANSION[kind]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        self.init_weights(zero_init)

    def init_weights(self, zero_init: bool) -> None:
        """Convolutions: normal with variance 2 / fan-out (He et al. 2015b, https://arxiv.org/abs/1502.01852, equation 14).

        Norms start at scale 1, or 0 where `zero_init` asks for it, and shift 0; linear layers as torch's do.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, Block) and zero_init:
                last = getattr(module.body, "norm3", module.body.norm2)
                nn.init.zeros_(last.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = self.before_blocks(images)
        for block in self.blocks:
            x = block(x)  # each stage but the first: (B, C, X, X) -> (B, 2C, X/2, X/2)
        return self.after_blocks(x)

    def before_blocks(self, images: Tensor) -> Tensor:
        return self.stem(images)  # (B, in_channels, X, X) -> (B, width, X/4, X/4), or as the stem says

    def after_blocks(self, x: Tensor) -> Tensor:
        x = self.pool(x).flatten(1)  # (B, C, X, X) -> (B, C)
        return self.head(x)  # (B, num_classes)


def _cifar(blocks: int) -> dict[str, Any]:
    """Section 4.2: 6n + 2 layers, n basic blocks in each of three stages."""
    return {"depths": (blocks,) * 3, "width": 16, "stem": "small", "shortcut": "A", "num_classes": 10}


PRESETS: dict[str, dict[str, Any]] = {
    "resnet18": {"depths": (2, 2, 2, 2)},
    "resnet34": {"depths": (3, 4, 6, 3)},
    "resnet50": {"depths": (3, 4, 6, 3), "kind": "bottleneck"},
    "resnet101": {"depths": (3, 4, 23, 3), "kind": "bottleneck"},
    "resnet152": {"depths": (3, 8, 36, 3), "kind": "bottleneck"},
    "resnet20": _cifar(3),
    "resnet32": _cifar(5),
    "resnet44": _cifar(7),
    "resnet56": _cifar(9),
    "resnet110": _cifar(18),
    "small": {"depths": (1, 1, 1, 1), "width": 16, "stem": "pool", "in_channels": 1, "num_classes": 10},
    "medium": {"depths": (1, 1, 1, 1), "width": 32, "stem": "small", "in_channels": 1, "num_classes": 10},
    "tiny": {**_cifar(1), "depths": (1, 1), "width": 8},
}


def build(preset: str = "resnet18", **overrides: Any) -> ResNet:
    """Return a ResNet by the name of its preset; `overrides` are arguments of `ResNet`."""
    return ResNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
