"""DenseNet.

"Densely Connected Convolutional Networks", Gao Huang, Zhuang Liu, Laurens van der Maaten, Kilian Q. Weinberger, 2016,
https://arxiv.org/abs/1608.06993: the networks for ImageNet of table 1 ("densenet121" to "densenet201", and the
"densenet161" that the authors publish beside them) and those for CIFAR of table 2, by depth L and growth k: plain
("densenet40_k12") and with bottleneck and compression, "BC" ("densenetbc100_k12"). "small" and "tiny" are ours: for
28x28 on a CPU, and for tests.

Options beyond the paper:
- stem "small" (3x3, stride 1, no pooling) is the paper's for CIFAR; here any preset takes it, for images of 28 or 32.
- dropout_at "layer": only at the end of each dense layer, as torchvision; the paper's place, "all", is after every
  convolution but the first.

Deviations: none.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map, k growth


def composite(in_channels: int, out_channels: int, kernel_size: int, dropout: float) -> nn.Sequential:
    """H of section 3: norm, ReLU, convolution; then the dropout of section 4.2. Keeps the side of the map."""
    return sequential(
        norm=nn.BatchNorm2d(in_channels),
        act=nn.ReLU(),
        conv=nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
        drop=nn.Dropout(dropout),
    )


class DenseLayer(nn.Module):
    """k new maps from all maps before; with a bottleneck, a 1x1 convolution to `bottleneck` * k maps comes first.

    forward: (B, in_channels, X, X) -> (B, k, X, X).
    """

    def __init__(self, in_channels: int, growth: int, bottleneck: int, dropout: float, inner_dropout: float) -> None:
        super().__init__()
        inner = bottleneck * growth if bottleneck else in_channels
        self.bottleneck = composite(in_channels, inner, 1, inner_dropout) if bottleneck else nn.Identity()
        self.grow = composite(inner, growth, 3, dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.grow(self.bottleneck(x))


class DenseBlock(nn.Module):
    """Equation 2: layer i computes x_i = H_i([x_0, x_1, ..., x_(i-1)]). Behind all layers, the transition.

    forward: (B, in_channels, X, X) -> (B, in_channels + depth * k, X, X), then what the transition makes of it.
    """

    def __init__(self, layers: list[DenseLayer], transition: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.transition = transition

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)  # (B, C, X, X) -> (B, C + k, X, X)
        return self.transition(x)


class DenseNet(nn.Module):
    """A stem, dense blocks with transitions between them, and a linear layer on the mean over the map.

    Images may have any side from 29 up, with the small stem from 8 up.

    Args:
        depths: dense layers of each block.
        growth: k, the maps that each dense layer adds.
        stem_channels: maps of the first convolution; None = 2k.
        bottleneck: a 1x1 convolution to this many times k maps precedes each 3x3; 0 = without. The paper's is 4.
        compression: theta of section 3, the share of the maps that a transition keeps; 1 = all.
        dropout: probability.
        dropout_at: "all", after every convolution but the first, or "layer", at the end of each dense layer.
        stem: "imagenet", which divides the side by 4, or "small", which keeps it.

    Raises `ValueError` for another stem or dropout_at, and for a compression that is not in (0, 1].

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        growth: int = 32,
        stem_channels: int | None = None,
        bottleneck: int = 4,
        compression: float = 0.5,
        dropout: float = 0.0,
        dropout_at: str = "all",
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        if stem not in ("imagenet", "small"):
            raise ValueError(f'stem is "imagenet" or "small", not {stem!r}')
        if dropout_at not in ("all", "layer"):
            raise ValueError(f'dropout_at is "all" or "layer", not {dropout_at!r}')
        if not 0 < compression <= 1:
            raise ValueError(f"compression lies in (0, 1], {compression} does not")
        inner_dropout = dropout if dropout_at == "all" else 0.0
        channels = 2 * growth if stem_channels is None else stem_channels
        if stem == "imagenet":
            self.stem = sequential(
                conv=nn.Conv2d(in_channels, channels, 7, stride=2, padding=3, bias=False),
                norm=nn.BatchNorm2d(channels),
                act=nn.ReLU(),
                pool=nn.MaxPool2d(3, stride=2, padding=1),
            )
        else:
            self.stem = sequential(conv=nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
        self.blocks = nn.ModuleList()
        for i, depth in enumerate(depths):
            layers = [DenseLayer(channels + j * growth, growth, bottleneck, dropout, inner_dropout) for j in range(depth)]
            channels += depth * growth
            transition: nn.Module = nn.Identity()
            if i < len(depths) - 1:
                kept = int(channels * compression)
                transition = composite(channels, kept, 1, inner_dropout)
                transition.add_module("pool", nn.AvgPool2d(2))
                channels = kept
            self.blocks.append(DenseBlock(layers, transition))
        self.norm = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as the authors' code: https://github.com/liuzhuang13/DenseNet, models/densenet.lua.

        Convolutions: normal with variance 2 / fan-out (He et al. 2015b, https://arxiv.org/abs/1502.01852, equation 14).
        The bias of the last layer: 0. Its weights as torch's linear layers, norms at scale 1 and shift 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, C, X/4, X/4), or (B, C, X, X) after a small stem
        for block in self.blocks:
            x = block(x)  # each but the last: (B, C, X, X) -> (B, theta * (C + depth * k), X/2, X/2)
        x = self.pool(self.act(self.norm(x))).flatten(1)  # (B, C, X, X) -> (B, C)
        return self.head(x)  # (B, num_classes)


def _cifar(depth: int, growth: int, bc: bool) -> dict[str, Any]:
    """Section 3: three blocks of as many layers; 16 maps before them, or 2k with bottleneck and compression."""
    if bc:
        options: dict[str, Any] = {"depths": ((depth - 4) // 6,) * 3}
    else:
        options = {"depths": ((depth - 4) // 3,) * 3, "stem_channels": 16, "bottleneck": 0, "compression": 1.0}
    return {**options, "growth": growth, "stem": "small", "num_classes": 10}


PRESETS: dict[str, dict[str, Any]] = {
    "densenet121": {"depths": (6, 12, 24, 16)},
    "densenet161": {"depths": (6, 12, 36, 24), "growth": 48},
    "densenet169": {"depths": (6, 12, 32, 32)},
    "densenet201": {"depths": (6, 12, 48, 32)},
    "densenet40_k12": _cifar(40, 12, bc=False),
    "densenet100_k12": _cifar(100, 12, bc=False),
    "densenet100_k24": _cifar(100, 24, bc=False),
    "densenetbc100_k12": _cifar(100, 12, bc=True),
    "densenetbc250_k24": _cifar(250, 24, bc=True),
    "densenetbc190_k40": _cifar(190, 40, bc=True),
    "small": {"depths": (2, 4, 6), "growth": 16, "bottleneck": 0, "stem": "small", "in_channels": 1, "num_classes": 10},
    "tiny": {"depths": (1, 2), "growth": 4, "stem": "small", "num_classes": 10},
}


def build(preset: str = "densenet121", **overrides: Any) -> DenseNet:
    """Return a DenseNet by the name of its preset; `overrides` are arguments of `DenseNet`.

    `ValueError` for an unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"no preset {preset!r} here; there are {', '.join(PRESETS)}")
    return DenseNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
