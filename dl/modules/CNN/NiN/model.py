"""NiN.

"Network In Network", Min Lin, Qiang Chen, Shuicheng Yan, 2013, https://arxiv.org/abs/1312.4400: the network for CIFAR-10
as its authors released it ("cifar10", https://gist.github.com/mavenlin/e56253735ef32c3c296d) and theirs for ImageNet
("imagenet", in Caffe's Model Zoo). "small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

The paper draws the network but gives no sizes; those of the release are taken, and its details with them: a ReLU follows
the maps of the classes too, and pooling takes windows that reach over the edge.

Deviations:
- Initial weights are He's, see `init_weights`; the release draws those for CIFAR-10 with a standard deviation of 0.05.
- The stem "small" of any preset is the first convolution of "cifar10" (5x5, stride 1), for images of 28 or 32 pixels.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, X side of a feature map, K classes

POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
STEMS = {"small": (5, 1, 2), "imagenet": (11, 4, 0)}  # first convolutions of "cifar10" and "imagenet", for any preset


def mlpconv(in_channels: int, widths: tuple[int, int, int], kernel_size: int, stride: int, padding: int) -> nn.Sequential:
    """Section 3.1, equation 2: a convolution, then two fully connected layers at each pixel, which are 1x1 convolutions.

    forward: (B, in_channels, X, X) -> (B, widths[2], X/stride, X/stride).
    """
    return sequential(
        conv1=nn.Conv2d(in_channels, widths[0], kernel_size, stride, padding),
        act1=nn.ReLU(),
        conv2=nn.Conv2d(widths[0], widths[1], 1),
        act2=nn.ReLU(),
        conv3=nn.Conv2d(widths[1], widths[2], 1),
        act3=nn.ReLU(),
    )


class NiN(nn.Module):
    """Blocks of `mlpconv` with pooling and dropout between them; the last gives a map to each class, its mean is the logit.

    Args:
        widths: maps of the three layers of each block; of two in the last block, whose third has `num_classes`.
        kernels: kernel size, stride and padding of the first convolution of each block.
        pools: "max" or "avg", after each block but the last: windows of 3x3, stride 2.
        dropouts: probability of dropout after each of these.
        stem: "small" (5x5, stride 1) or "imagenet" (11x11, stride 4) in place of the first of `kernels`.

    forward: images (B, in_channels, X, X) -> logits (B, num_classes).

    Raises `ValueError` for an unknown stem or pool, and when a block lacks its kernel, pool or dropout.
    """

    def __init__(
        self,
        widths: tuple[tuple[int, ...], ...],
        kernels: tuple[tuple[int, int, int], ...],
        pools: tuple[str, ...],
        dropouts: tuple[float, ...],
        num_classes: int = 10,
        in_channels: int = 3,
        stem: str | None = None,
    ) -> None:
        super().__init__()
        if stem not in (None, *STEMS) or not set(pools) <= set(POOLS):
            raise ValueError(f"stem {stem!r} and pools {pools}: there are the stems {list(STEMS)} and the pools {list(POOLS)}")
        if not len(widths) == len(kernels) == len(pools) + 1 == len(dropouts) + 1:
            raise ValueError(
                f"{len(widths)} blocks have as many kernels, not {len(kernels)}, "
                f"and one pool and dropout less, not {len(pools)} and {len(dropouts)}"
            )
        if stem is not None:
            kernels = (STEMS[stem], *kernels[1:])
        self.blocks = nn.ModuleList()
        channels = in_channels
        for i, maps in enumerate((*widths[:-1], (*widths[-1], num_classes))):
            block = mlpconv(channels, maps, *kernels[i])
            if i < len(pools):
                block.add_module("pool", POOLS[pools[i]](3, stride=2, ceil_mode=True))
                block.add_module("dropout", nn.Dropout(dropouts[i]))
            self.blocks.append(block)
            channels = maps[-1]
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.init_weights()

    def init_weights(self) -> None:
        """Kernels: uniform with variance 2 / fan-in (He et al. 2015, https://arxiv.org/abs/1502.01852, equation 10); biases 0.

        The biases of the classes' maps are 1. At 0, some of these maps start below 0 at every pixel of every image: their
        ReLU then passes no gradient, and the network never learns these classes.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.ones_(self.blocks[-1].conv3.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for block in self.blocks:
            x = block(x)  # each but the last: (B, C, X, X) -> (B, C', X/2, X/2), after a stem for ImageNet X/8
        return self.pool(x).flatten(1)  # section 3.2: (B, K, X, X) -> (B, K)


_CIFAR10 = {"kernels": ((5, 1, 2), (5, 1, 2), (3, 1, 1)), "pools": ("max", "avg")}

PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {**_CIFAR10, "widths": ((192, 160, 96), (192, 192, 192), (192, 192)), "dropouts": (0.5, 0.5)},
    "imagenet": {
        "widths": ((96, 96, 96), (256, 256, 256), (384, 384, 384), (1024, 1024)),
        "kernels": ((11, 4, 0), (5, 1, 2), (3, 1, 1), (3, 1, 1)),
        "pools": ("max", "max", "max"),
        "dropouts": (0.0, 0.0, 0.5),
        "num_classes": 1000,
    },
    "small": {**_CIFAR10, "widths": ((64, 48, 32), (64, 64, 64), (64, 64)), "dropouts": (0.1, 0.1), "in_channels": 1},
    "tiny": {**_CIFAR10, "widths": ((12, 10, 8), (16, 16, 16), (16, 16)), "dropouts": (0.0, 0.0)},
}


def build(preset: str = "cifar10", **overrides: Any) -> NiN:
    """Return a NiN by the name of its preset; `overrides` are arguments of `NiN`."""
    return NiN(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 224 if preset == "imagenet" else 32
    return (torch.zeros(1, channels, size, size),)
