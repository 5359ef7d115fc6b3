"""AlexNet.

"ImageNet Classification with Deep Convolutional Neural Networks", Alex Krizhevsky, Ilya Sutskever, Geoffrey Hinton, 2012,
https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks.

`AlexNet` ("alexnet", for images of 227x227) is figure 2: two towers, each with half of the channels, that meet in conv3 and in
the linear layers only; local response normalisation; overlapping pooling. `TorchvisionAlexNet` ("torchvision") is the one tower
without normalisation of "One weird trick for parallelizing convolutional neural networks", Alex Krizhevsky, 2014,
https://arxiv.org/abs/1404.5997, section 5, as torchvision has it. "small" and "tiny" are ours, of the paper's kind: for 28x28
on a CPU, and for tests.

Deviations:
- The paper says images of 224x224, but a first map of 55x55 needs 227 without padding. torchvision pads 224 by 2.
- The sum of the response normalisation runs over all channels of a layer, as the formula says, also where the towers
  meet. On the paper's two GPUs that takes communication, of which the paper says nothing.
- The linear layers read a map of 6x6, averaged to this size if it has another, as torchvision does: images may have
  any size. At 227x227 nothing is averaged.
- Dropout scales up what it keeps in training, where the paper halves everything in test.
- With stem "small", for images of 28 or 32, conv1 is 7x7 with stride 1, and the linear layers read a map of 2x2.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import sequential

# B batch, H and W sides of an image, c1 to c5 channels of the convolutions

# Of conv1: kernel size, stride and padding; and the side of the map that fc6 reads.
STEMS = {"imagenet": (11, 4, 0, 6), "small": (7, 1, 3, 2)}


class ResponseNorm(nn.Module):
    """Section 3.3: b_i = a_i / (k + alpha * sum of a_j^2 over the n channels around i)^beta. (B, C, H, W) -> (B, C, H, W).

    torch's `LocalResponseNorm` divides alpha by n, which the paper does not, and takes more than twice as long on a CPU.
    """

    def __init__(self, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> None:
        super().__init__()
        self.n, self.k, self.alpha, self.beta = n, k, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        squares = F.pad(x * x, (0, 0, 0, 0, self.n // 2, self.n // 2))  # (B, C, H, W) -> (B, C + n - 1, H, W)
        total = sum(squares[:, i : i + x.shape[1]] for i in range(self.n))
        return x * (self.k + self.alpha * total) ** -self.beta


class AlexNet(nn.Module):
    """Five convolutions and three linear layers, named as the paper counts them. Images may have any size from 67 up.

    Args:
        widths: channels of conv1 to conv5. The towers have half of them each.
        hidden: units of fc6 and fc7.
        stem: conv1 is 11x11 with stride 4 in "imagenet", 7x7 with stride 1 in "small", for images of 28 or 32.
        dropout: probability in training.
        init: "paper", "he" or "torch", see `init_weights`.

    forward: images (B, in_channels, H, W) -> logits (B, num_classes). Raises `ValueError` for unknown names.
    """

    towers = 2

    def __init__(
        self,
        widths: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256),
        hidden: int = 4096,
        num_classes: int = 1000,
        in_channels: int = 3,
        stem: str = "imagenet",
        dropout: float = 0.5,
        init: str = "paper",
    ) -> None:
        super().__init__()
        if stem not in STEMS or init not in ("paper", "he", "torch"):
            raise ValueError(f"no AlexNet of stem {stem!r}, init {init!r}")
        c1, c2, c3, c4, c5 = widths
        kernel_size, stride, padding, side = STEMS[stem]
        self.features = sequential(
            conv1=nn.Conv2d(in_channels, c1, kernel_size, stride, padding),
            act1=nn.ReLU(),
            norm1=ResponseNorm(),
            pool1=nn.MaxPool2d(3, stride=2),  # section 3.4: windows overlap
            conv2=nn.Conv2d(c1, c2, 5, padding=2, groups=self.towers),
            act2=nn.ReLU(),
            norm2=ResponseNorm(),
            pool2=nn.MaxPool2d(3, stride=2),
            conv3=nn.Conv2d(c2, c3, 3, padding=1),
            act3=nn.ReLU(),
            conv4=nn.Conv2d(c3, c4, 3, padding=1, groups=self.towers),
            act4=nn.ReLU(),
            conv5=nn.Conv2d(c4, c5, 3, padding=1, groups=self.towers),
            act5=nn.ReLU(),
            pool5=nn.MaxPool2d(3, stride=2),
        )
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.head = sequential(
            fc6=nn.Linear(c5 * side**2, hidden),
            act6=nn.ReLU(),
            drop6=nn.Dropout(dropout),
            fc7=nn.Linear(hidden, hidden),
            act7=nn.ReLU(),
            drop7=nn.Dropout(dropout),
            fc8=nn.Linear(hidden, num_classes),
        )
        self.init_weights(init)

    def init_weights(self, init: str) -> None:
        """How weights and biases start.

        "paper", section 5: normal with std 0.01; biases 1 in conv2, conv4, conv5, fc6, fc7, and 0 elsewhere.
        "he": normal with variance 2 / fan-in (He et al. 2015, https://arxiv.org/abs/1502.01852, equation 10), biases 0:
        few channels with the paper's small weights pass on next to nothing.
        "torch": as torch's layers start, which is torchvision's way.
        """
        maps, head = self.features, self.head
        for layer in (maps.conv1, maps.conv2, maps.conv3, maps.conv4, maps.conv5, head.fc6, head.fc7, head.fc8):
            if init == "paper":
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.constant_(layer.bias, 0 if layer in (maps.conv1, maps.conv3, head.fc8) else 1)
            elif init == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)  # (B, in_channels, 227, 227) -> (B, c5, 6, 6), or 28 -> 2 after a small stem
        x = self.pool(x).flatten(1)  # (B, c5, H', W') -> (B, c5 * 6 * 6), or c5 * 2 * 2
        return self.head(x)  # (B, num_classes)


class TorchvisionAlexNet(AlexNet):
    """One tower without normalisation. torchvision pads images by 2, and drops inputs of fc6 and fc7, not their outputs.

    The arguments are those of `AlexNet`.
    """

    towers = 1

    def __init__(
        self,
        widths: tuple[int, int, int, int, int] = (64, 192, 384, 256, 256),
        stem: str = "imagenet",
        dropout: float = 0.5,
        init: str = "torch",
        **options: Any,
    ) -> None:
        super().__init__(widths, stem=stem, dropout=dropout, init=init, **options)
        del self.features.norm1, self.features.norm2
        if stem == "imagenet":
            self.features.conv1.padding = (2, 2)
        head = self.head
        self.head = sequential(
            drop5=nn.Dropout(dropout),
            fc6=head.fc6,
            act6=head.act6,
            drop6=head.drop6,
            fc7=head.fc7,
            act7=head.act7,
            fc8=head.fc8,
        )


STYLES: dict[str, type[AlexNet]] = {"paper": AlexNet, "torchvision": TorchvisionAlexNet}
_SMALL = {"style": "paper", "stem": "small", "init": "he", "in_channels": 1, "num_classes": 10}
PRESETS: dict[str, dict[str, Any]] = {
    "alexnet": {"style": "paper"},
    "torchvision": {"style": "torchvision"},
    "small": {**_SMALL, "widths": (32, 96, 192, 192, 128), "hidden": 512},
    "tiny": {**_SMALL, "widths": (8, 12, 16, 16, 12), "hidden": 32},
}


def build(preset: str = "alexnet", **overrides: Any) -> AlexNet:
    """Return an AlexNet by the name of its preset; `overrides` are its style, a key of `STYLES`, and arguments of that class.

    Raises `ValueError` for unknown names.
    """
    arguments = {**PRESETS[preset], **overrides}
    style = arguments.pop("style")
    if style not in STYLES:
        raise ValueError(f"no AlexNet of style {style!r}: there are {', '.join(STYLES)}")
    return STYLES[style](**arguments)


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    channels = PRESETS[preset].get("in_channels", 3)
    size = 28 if channels == 1 else 32 if "num_classes" in PRESETS[preset] else 224
    return (torch.zeros(1, channels, size, size),)
