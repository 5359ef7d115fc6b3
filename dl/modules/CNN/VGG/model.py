"""VGG.

"Very Deep Convolutional Networks for Large-Scale Image Recognition", Karen Simonyan, Andrew Zisserman, 2014,
https://arxiv.org/abs/1409.1556: configurations A, B, D and E of table 1 as "vgg11", "vgg13", "vgg16" and "vgg19".
"vgg11_bn" to "vgg19_bn" have batch normalisation (https://arxiv.org/abs/1502.03167) after each convolution, as torchvision
builds them. "small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

Deviations:
- Weights start as torchvision's do, see `init_weights`. The paper's start normal with variance 0.01 in A, and the deeper
  networks start from a trained A; it adds that a scaled start would do without.
- The linear layers read a map of 7x7, averaged to this size if it has another, as torchvision does: images may have any
  size from 32 up. The paper turns them into convolutions in test instead, and averages the logits over the image.
- Head "small", for images of 28 or 32, is one linear layer on the mean over the map; after it the poolings round up,
  so that 28 pixels are enough for five of them.
- Not here: A-LRN, which is no better than A in the paper's table 3, and C, whose third convolutions are 1x1.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, H and W sides of an image or a map


def make_block(in_channels: int, out_channels: int, depth: int, batch_norm: bool, round_up: bool) -> nn.Sequential:
    """`depth` convolutions of 3x3, then max pooling: (B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
    layers: dict[str, nn.Module] = {}
    for i in range(1, depth + 1):
        layers[f"conv{i}"] = nn.Conv2d(in_channels if i == 1 else out_channels, out_channels, 3, padding=1)
        if batch_norm:
            layers[f"norm{i}"] = nn.BatchNorm2d(out_channels)
        layers[f"act{i}"] = nn.ReLU()
    return sequential(**layers, pool=nn.MaxPool2d(2, ceil_mode=round_up))


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each of which halves the map, and three linear layers.

    Args:
        depths: convolutions of each block.
        width: channels of the first block; the next ones have twice, four times, and from the fourth on eight times as many.
        batch_norm: a batch norm between each convolution and its ReLU.
        head: "imagenet", three linear layers on a map of 7x7, or "small", one linear layer on the mean over the map.
        hidden: units of the first two of three linear layers.
        dropout: probability in training, in front of each linear layer but that which reads the map of 7x7.

    forward: images (B, in_channels, H, W) -> logits (B, num_classes). Raises `ValueError` for an unknown head.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        width: int = 64,
        batch_norm: bool = False,
        num_classes: int = 1000,
        in_channels: int = 3,
        head: str = "imagenet",
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if head not in ("imagenet", "small"):
            raise ValueError(f"no head {head!r}; there are imagenet and small")
        channels = [in_channels, *(width * min(2**i, 8) for i in range(len(depths)))]
        pairs = zip(channels, channels[1:])
        self.blocks = nn.ModuleList(
            make_block(into, out, depth, batch_norm, round_up=head == "small") for (into, out), depth in zip(pairs, depths)
        )
        if head == "imagenet":
            self.pool = nn.AdaptiveAvgPool2d(7)
            self.head = sequential(
                fc1=nn.Linear(channels[-1] * 7 * 7, hidden),
                act1=nn.ReLU(),
                drop1=nn.Dropout(dropout),
                fc2=nn.Linear(hidden, hidden),
                act2=nn.ReLU(),
                drop2=nn.Dropout(dropout),
                fc3=nn.Linear(hidden, num_classes),
            )
        else:
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = sequential(drop=nn.Dropout(dropout), fc=nn.Linear(channels[-1], num_classes))
        self.init_weights()

    def init_weights(self) -> None:
        """Convolutions: normal with variance 2 / fan-out (He et al. 2015, https://arxiv.org/abs/1502.01852, equation 14).

        Linear layers: normal with std 0.01. All biases 0. Norms start at scale 1 and shift 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for block in self.blocks:
            x = block(x)  # (B, C, H, W) -> (B, 2C, H/2, W/2); from the fourth block on (B, C, H/2, W/2)
        x = self.pool(x).flatten(1)  # (B, C, H, W) -> (B, C * 7 * 7), or (B, C) for a small head
        return self.head(x)  # (B, num_classes)


# Table 1: A, B, D, E.
_DEPTHS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}
_SMALL = {"batch_norm": True, "head": "small", "in_channels": 1, "num_classes": 10, "dropout": 0.0}

PRESETS: dict[str, dict[str, Any]] = {
    **{name: {"depths": depths} for name, depths in _DEPTHS.items()},
    **{f"{name}_bn": {"depths": depths, "batch_norm": True} for name, depths in _DEPTHS.items()},
    "small": {**_SMALL, "depths": (2, 2, 2), "width": 32},
    "tiny": {**_SMALL, "depths": (1, 1, 2), "width": 8},
}


def build(preset: str = "vgg16", **overrides: Any) -> VGG:
    """Return a VGG by the name of its preset; `overrides` are arguments of `VGG`."""
    return VGG(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
