"""LeNet-5.

"Gradient-Based Learning Applied to Document Recognition", Yann LeCun, Leon Bottou, Yoshua Bengio, Patrick Haffner,
1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf, section II.B and figure 2.

Three presets of one network (C1, S2, C3, S4, C5, F6, output):
- "lenet5": the paper's, with its 60,000 parameters: scaled tanh, trainable subsampling, the partial connections of
  table I, and an output of radial basis functions with fixed codes.
- "textbook": what courses teach as LeNet (https://d2l.ai, section 7.6): sigmoid, average pooling, dense layers.
- "modern": the same with ReLU and max pooling.

Deviations:
- The paper's codes of the output classes are drawings of the characters, 7 x 12 pixels. Ours are random with equal
  chances for -1 and +1, which the paper names as the alternative: our classes need not be characters.
- The weights of "lenet5" start from a uniform distribution with bounds +-2.4 / fan-in, as the paper says; fan-in of a
  unit in C3 depends on its number of connections. The other presets start as torch's layers do, which is uniform too.
- "textbook" ends in a linear layer, without the Gaussian connections that d2l leaves out as well.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# B batch, K classes, X side of a feature map


class ScaledTanh(nn.Module):
    """f(a) = 1.7159 tanh(2/3 a): f(1) = 1, f(-1) = -1, largest curvature there. Section II.B, equation 6, appendix A."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)


class Subsampling(nn.Module):
    """S2 and S4: the four inputs of a unit are added, multiplied by a coefficient, and a bias is added; one each per map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> Tensor:
        total = 4 * F.avg_pool2d(x, 2)  # (B, C, X, X) -> (B, C, X/2, X/2)
        return total * self.coefficient[:, None, None] + self.bias[:, None, None]


class PartialConv2d(nn.Module):
    """C3: a convolution in which an output map sees only some input maps. Parameters exist for these alone."""

    # Table I: the maps of S2 that each of the 16 maps of C3 is connected to.
    TABLE = (
        (0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5),
        (0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5),
        (0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5),
        (0, 1, 2, 3, 4, 5),
    )  # fmt: skip

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        pairs = torch.tensor([(out, into) for out, maps in enumerate(self.TABLE) for into in maps])  # (60, 2)
        self.register_buffer("pairs", pairs, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(len(self.TABLE)))

    def forward(self, x: Tensor) -> Tensor:
        dense = self.weight.new_zeros(len(self.TABLE), x.shape[1], *self.weight.shape[1:])  # (60, 5, 5) -> (16, 6, 5, 5)
        dense[self.pairs[:, 0], self.pairs[:, 1]] = self.weight
        return F.conv2d(x, dense, self.bias)


class RBFOutput(nn.Module):
    """Equation 7: y_i = sum_j (x_j - w_ij)^2 with fixed codes w of -1 and +1. Gives -y, so that the largest wins.

    Cross-entropy of -y is the paper's criterion (equation 9) but for its constant j.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        codes = torch.randint(0, 2, (num_classes, features), generator=torch.Generator().manual_seed(1998))
        self.register_buffer("codes", 2.0 * codes - 1)  # (K, 84)

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None, :] - self.codes).square().sum(-1)  # (B, 1, 84) - (K, 84) -> (B, K)


class LeNet(nn.Module):
    """LeNet-5 for square images of at most 32 pixels, which are framed to the paper's 32 x 32.

    `style`: "lenet5", "textbook" or "modern", see above; `width` multiplies the number of maps and units, not in "lenet5".

    forward: images (B, in_channels, image_size, image_size) -> logits (B, num_classes).
    """

    def __init__(
        self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28, style: str = "modern", width: float = 1.0
    ) -> None:
        super().__init__()
        paper = style == "lenet5"
        c1, c3, c5, f6 = (6, 16, 120, 84) if paper else (math.ceil(width * size) for size in (6, 16, 120, 84))
        activation = {"lenet5": ScaledTanh, "textbook": nn.Sigmoid, "modern": nn.ReLU}[style]
        frame = (32 - image_size) // 2

        def pool(channels: int) -> nn.Module:
            return Subsampling(channels) if paper else nn.AvgPool2d(2) if style == "textbook" else nn.MaxPool2d(2)

        self.c1 = nn.Conv2d(in_channels, c1, kernel_size=5, padding=frame)
        self.s2 = pool(c1)
        self.c3 = PartialConv2d(kernel_size=5) if paper else nn.Conv2d(c1, c3, kernel_size=5)
        self.s4 = pool(c3)
        self.c5 = nn.Conv2d(c3, c5, kernel_size=5)
        self.f6 = nn.Linear(c5, f6)
        self.output = RBFOutput(f6, num_classes) if paper else nn.Linear(f6, num_classes)
        self.act1, self.act3, self.act5, self.act6 = activation(), activation(), activation(), activation()
        # In the paper the sum of a subsampling unit goes through the squashing function too.
        self.act2, self.act4 = (activation(), activation()) if paper else (nn.Identity(), nn.Identity())
        if paper:
            self.init_weights()

    def init_weights(self) -> None:
        """Appendix A: uniform within +-2.4 / fan-in, for both kernels and biases; a subsampling unit has 4 inputs."""
        fan_in = {self.c1: 25 * self.c1.in_channels, self.s2: 4, self.s4: 4, self.c5: 400, self.f6: 120}
        for layer, inputs in fan_in.items():
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -2.4 / inputs, 2.4 / inputs)
        connections = torch.tensor([len(maps) for maps in PartialConv2d.TABLE])
        bound = 2.4 / (25 * connections)  # (16,)
        with torch.no_grad():
            self.c3.weight.uniform_(-1, 1).mul_(bound[self.c3.pairs[:, 0]][:, None, None])
            self.c3.bias.uniform_(-1, 1).mul_(bound)

    def forward(self, images: Tensor) -> Tensor:
        x = self.act1(self.c1(images))  # (B, in_channels, X, X) -> (B, 6, 28, 28)
        x = self.act2(self.s2(x))  # (B, 6, 14, 14)
        x = self.act3(self.c3(x))  # (B, 16, 10, 10)
        x = self.act4(self.s4(x))  # (B, 16, 5, 5)
        x = self.act5(self.c5(x)).flatten(1)  # (B, 120, 1, 1) -> (B, 120)
        x = self.act6(self.f6(x))  # (B, 84)
        return self.output(x)  # (B, K)


PRESETS: dict[str, dict[str, Any]] = {
    "modern": {"style": "modern"},
    "textbook": {"style": "textbook"},
    "lenet5": {"style": "lenet5"},
    "tiny": {"style": "modern", "width": 0.5},
}


def build(preset: str = "modern", **overrides: Any) -> LeNet:
    """Return a LeNet by the name of its preset; `overrides` are arguments of `LeNet`."""
    return LeNet(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    return (torch.zeros(1, 1, 28, 28),)
