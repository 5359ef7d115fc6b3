"""PreActResNet.

"Identity Mappings in Deep Residual Networks", Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun, 2016,
https://arxiv.org/abs/1603.05027: residual units whose norms and activations come before the weights (figure 4e), for
CIFAR-10 ("preact_resnet110" of basic units, "preact_resnet164" and "preact_resnet1001" of bottlenecks) and for ImageNet
("preact_resnet18" to "preact_resnet200"). "small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

What the paper leaves open is done as in the authors' code, https://github.com/KaimingHe/resnet-1k-layers: a bottleneck
that shrinks the map does so in its first 1x1 convolution, and the bias of the head starts at 0.

Deviations:
- Shortcut A (only preact_resnet110 needs it) takes the unit's input itself; the paper says of projections alone that
  they take the normed and activated one. Where its zero channels go is said in ResNet's model.py.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.CNN.ResNet.model import PaddedShortcut, conv
from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map, s stride


class Block(nn.Module):
    """y = body(preact(x)) + shortcut(x), figure 1b. Nothing comes after the addition: an identity stays one.

    A projection takes preact(x) as the body does. The network's first block has no preact of its own: its input comes
    normed and activated from the stem (appendix).

    forward: (B, in_channels, X, X) -> (B, width * EXPANSION[kind], X/s, X/s).
    """

    EXPANSION = {"basic": 1, "bottleneck": 4}

    def __init__(self, kind: str, in_channels: int, width: int, stride: int, shortcut: str, first: bool) -> None:
        super().__init__()
        out_channels = width * self.EXPANSION[kind]
        self.preact = nn.Identity() if first else sequential(norm=nn.BatchNorm2d(in_channels), act=nn.ReLU())
        if kind == "basic":
            self.body = sequential(
                conv1=conv(in_channels, width, 3, stride),
                norm1=nn.BatchNorm2d(width),
                act1=nn.ReLU(),
                conv2=conv(width, width, 3),
            )
        else:
            self.body = sequential(
                conv1=conv(in_channels, width, 1, stride),
                norm1=nn.BatchNorm2d(width),
                act1=nn.ReLU(),
                conv2=conv(width, width, 3),
                norm2=nn.BatchNorm2d(width),
                act2=nn.ReLU(),
                conv3=conv(width, out_channels, 1),
            )
        changes = stride > 1 or in_channels != out_channels
        self.projects = changes and shortcut == "B"
        if self.projects:
            self.shortcut = conv(in_channels, out_channels, 1, stride)
        else:
            self.shortcut = PaddedShortcut(in_channels, out_channels, stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        activated = self.preact(x)
        return self.body(activated) + self.shortcut(activated if self.projects else x)


class PreActResNet(nn.Module):
    """A stem, stages of blocks, a last norm and activation, and a linear layer on the mean over the map. Any side is fine.

    Args:
        depths: blocks of each stage. The first block of every stage but the first halves the map; `width`, the channels
            inside the blocks of the first stage, doubles from stage to stage.
        kind: "basic" or "bottleneck", see `Block`.
        stem: "imagenet", which divides the side by 4, or "small", which keeps it.
        shortcut: where the shape changes, "A" pads with zeros and "B" projects.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).

    Raises `ValueError` for a kind, stem or shortcut that is none of these.
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
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("kind", kind, ("basic", "bottleneck")),
            ("stem", stem, ("imagenet", "small")),
            ("shortcut", shortcut, ("A", "B")),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
        if stem == "imagenet":
            first, pool = conv(in_channels, width, 7, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
        else:
            first, pool = conv(in_channels, width, 3), nn.Identity()
        self.stem = sequential(conv=first, norm=nn.BatchNorm2d(width), act=nn.ReLU(), pool=pool)
        self.blocks = nn.ModuleList()
        channels = width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(Block(kind, channels, width * 2**stage, stride, shortcut, first=stage == i == 0))
                channels = width * 2**stage * Block.EXPANSION[kind]
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
        x = self.stem(images)  # (B, in_channels, X, X) -> (B, width, X/4, X/4), or (B, width, X, X) after a small stem
        for block in self.blocks:
            x = block(x)  # each stage but the first: (B, C, X, X) -> (B, 2C, X/2, X/2)
        x = self.act(self.norm(x))
        x = self.pool(x).flatten(1)  # (B, C, X, X) -> (B, C)
        return self.head(x)  # (B, num_classes)


def _cifar(blocks: int, **options: str) -> dict[str, Any]:
    """Section 4: the layout of ResNet's section 4.2, with `blocks` in each of three stages."""
    return {"depths": (blocks,) * 3, "width": 16, "stem": "small", "num_classes": 10, **options}


PRESETS: dict[str, dict[str, Any]] = {
    "preact_resnet110": _cifar(18, shortcut="A"),
    "preact_resnet164": _cifar(18, kind="bottleneck"),
    "preact_resnet1001": _cifar(111, kind="bottleneck"),
    "preact_resnet18": {"depths": (2, 2, 2, 2)},
    "preact_resnet50": {"depths": (3, 4, 6, 3), "kind": "bottleneck"},
    "preact_resnet152": {"depths": (3, 8, 36, 3), "kind": "bottleneck"},
    "preact_resnet200": {"depths": (3, 24, 36, 3), "kind": "bottleneck"},
    "small": {**_cifar(2), "in_channels": 1},
    "tiny": {**_cifar(2), "depths": (2, 2), "width": 8},
}


def build(preset: str = "preact_resnet164", **overrides: Any) -> PreActResNet:
    """Return a PreActResNet by the name of its preset; `overrides` are arguments of `PreActResNet`.

    Raises `ValueError` for a name that is not in `PRESETS`.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset is one of {', '.join(PRESETS)}, not {preset!r}")
    return PreActResNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
