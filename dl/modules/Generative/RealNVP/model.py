"""Real NVP: a normalizing flow of affine coupling layers.

"Density estimation using Real NVP", Laurent Dinh, Jascha Sohl-Dickstein, Samy Bengio, 2016, https://arxiv.org/abs/1605.08803.

An invertible network maps an image to noise of the standard normal distribution. The change of variables gives the density of
the image itself, with no bound and no sampling, and the inverse of the network turns noise into new images.

Presets: "cifar10" is the paper's for images of 32x32 (section 4.1). "small" is ours, for 28x28 on a CPU.

Deviations: no batch norm, neither as a layer of the flow nor in the residual networks, and no weight norm: the last convolution
of each residual network starts at 0 instead, so that the flow starts as the identity. Squeezing keeps the four pixels of a
channel side by side, as `torch.nn.functional.pixel_unshuffle` does; the authors' code orders them another way before half of
the channels leave.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import sequential

# B batch, C channels, X side of an image, D = C X X numbers of an image, F features

ALPHA = 0.05  # section 4.1: keeps the logit finite


def logit(images: Tensor, alpha: float = ALPHA) -> tuple[Tensor, Tensor]:
    """Images (B, C, X, X) in [0, 1] -> logit(alpha + (1 - 2 alpha) x), and the log-determinant of this, (B,). Section 4.1."""
    x = alpha + (1 - 2 * alpha) * images
    log_derivative = math.log(1 - 2 * alpha) - x.log() - (1 - x).log()
    return x.log() - (1 - x).log(), log_derivative.flatten(1).sum(1)


def inverse_logit(logits: Tensor, alpha: float = ALPHA) -> tuple[Tensor, Tensor]:
    """Return the images that `logit` maps to `logits` (B, C, X, X), and the log-determinant of this map, (B,)."""
    images = (logits.sigmoid() - alpha) / (1 - 2 * alpha)
    log_derivative = F.logsigmoid(logits) + F.logsigmoid(-logits) - math.log(1 - 2 * alpha)
    return images, log_derivative.flatten(1).sum(1)


class ResidualBlock(nn.Module):
    """x + two convolutions of rectified features, (B, F, X, X) -> (B, F, X, X)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = sequential(
            act1=nn.ReLU(),
            conv1=nn.Conv2d(features, features, 3, padding=1),
            act2=nn.ReLU(),
            conv2=nn.Conv2d(features, features, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Coupling(nn.Module):
    """Affine coupling, equations 7 to 9: y = b x + (1 - b) (x exp(s(b x)) + t(b x)), with a mask b of zeros and ones.

    What the mask keeps passes unchanged, so the inverse knows s and t too, and needs no inverse of the network. s = scale tanh.

    Args:
        channels: C of the input.
        features, blocks: width and residual blocks of the network that computes s and t.
        kind: "checkerboard" keeps every second pixel, "channels" half of the channels (figure 3).
        swap: keep what the mask else changes; consecutive couplings alternate.
    """

    def __init__(
        self, channels: int, features: int, blocks: int, kind: Literal["checkerboard", "channels"], swap: bool
    ) -> None:
        super().__init__()
        self.kind, self.swap = kind, swap
        self.network = sequential(
            stem=nn.Conv2d(2 * channels, features, 3, padding=1),
            **{f"block{i}": ResidualBlock(features) for i in range(1, blocks + 1)},
            act=nn.ReLU(),
            output=nn.Conv2d(features, 2 * channels, 1),
        )
        nn.init.zeros_(self.network.output.weight)
        nn.init.zeros_(self.network.output.bias)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def mask(self, x: Tensor) -> Tensor:
        """Return b, (1, C or 1, X or 1, X or 1), of ones and zeros: 1 = passes unchanged."""
        channels, height, width = x.shape[1:]
        if self.kind == "channels":
            kept = torch.arange(channels, device=x.device).view(1, -1, 1, 1) < channels // 2
        else:
            rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
            kept = ((rows[:, None] + columns) % 2 == 0)[None, None]
        return (kept ^ self.swap).to(x.dtype)

    def scale_and_shift(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return s and t, each (B, C, X, X), 0 where the mask keeps x. They depend on what it keeps alone."""
        kept = self.mask(x)
        # Without the mask as an input, the network could not tell a masked pixel from a value of 0.
        s, t = self.network(torch.cat([kept * x, kept.expand_as(x)], dim=1)).chunk(2, dim=1)
        return (1 - kept) * self.scale * s.tanh(), (1 - kept) * t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, X, X) -> y (B, C, X, X) and the log-determinant, the sum of s, (B,)."""
        s, t = self.scale_and_shift(x)
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x of `forward` for y (B, C, X, X), and the log-determinant of the inverse, (B,)."""
        s, t = self.scale_and_shift(y)
        return (y - t) * (-s).exp(), -s.flatten(1).sum(1)


class Couplings(nn.ModuleList):
    """`count` couplings, each of which changes what the one before kept."""

    def __init__(
        self, count: int, channels: int, features: int, blocks: int, kind: Literal["checkerboard", "channels"]
    ) -> None:
        super().__init__(Coupling(channels, features, blocks, kind, swap=i % 2 == 1) for i in range(count))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, C, X, X) -> y (B, C, X, X) and the log-determinant, the sum of those of all couplings, (B,)."""
        log_det = x.new_zeros(len(x))
        for coupling in self:
            x, more = coupling(x)
            log_det = log_det + more
        return x, log_det

    def inverse(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x of `forward` for y (B, C, X, X), and the log-determinant of the inverse, (B,)."""
        log_det = y.new_zeros(len(y))
        for coupling in reversed(self):
            y, more = coupling.inverse(y)
            log_det = log_det + more
        return y, log_det


class RealNVP(nn.Module):
    """Multi-scale flow of images (B, in_channels, image_size, image_size) with values in [0, 1]. Section 3.6.

    A scale is three couplings with checkerboards, squeezing (C, X, X) -> (4 C, X/2, X/2), and three with masks of channels;
    then half of the channels leave as latent variables. Four checkerboards end the flow.

    Args:
        features: of the residual networks at the first scale; twice as many at each that follows.
        blocks: residual blocks of each coupling.
        scales: how often the image is squeezed.

    Raises `ValueError` for an image that cannot be halved as often as there are scales.
    """

    def __init__(
        self, features: int = 32, blocks: int = 2, scales: int = 2, in_channels: int = 1, image_size: int = 28
    ) -> None:
        super().__init__()
        if image_size % 2**scales:
            raise ValueError(f"images of {image_size} pixels cannot be halved {scales} times: multiples of {2**scales} can")
        self.channels, self.size = in_channels, image_size
        self.checkerboards, self.channelwise = nn.ModuleList(), nn.ModuleList()
        channels = in_channels
        for _ in range(scales):
            self.checkerboards.append(Couplings(3, channels, features, blocks, "checkerboard"))
            self.channelwise.append(Couplings(3, 4 * channels, 2 * features, blocks, "channels"))
            channels, features = 2 * channels, 2 * features
        self.last = Couplings(4, channels, features, blocks, "checkerboard")

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, X, X) in [0, 1] -> latent variables (B, D) and the log-determinant of the whole map, (B,)."""
        x, log_det = logit(images)
        latents = []
        for checkerboards, channelwise in zip(self.checkerboards, self.channelwise):
            x, first = checkerboards(x)
            x, second = channelwise(F.pixel_unshuffle(x, 2))  # (B, C, X, X) -> (B, 4 C, X/2, X/2)
            x, left = x.chunk(2, dim=1)  # (B, 2 C, X/2, X/2) each
            latents.append(left.flatten(1))
            log_det = log_det + first + second
        x, more = self.last(x)
        return torch.cat([*latents, x.flatten(1)], dim=1), log_det + more

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images that `encode` maps to `latents` (B, D), and the log-determinant of the inverse, (B,)."""
        scales = len(self.checkerboards)
        shapes = [(self.channels * 2**i, self.size // 2**i, self.size // 2**i) for i in (*range(1, scales + 1), scales)]
        parts = latents.split([math.prod(shape) for shape in shapes], dim=1)
        *left, x = (part.unflatten(1, shape) for part, shape in zip(parts, shapes))  # in the order in which they left
        x, log_det = self.last.inverse(x)
        for i in reversed(range(scales)):
            x, second = self.channelwise[i].inverse(torch.cat([x, left[i]], dim=1))
            x, first = self.checkerboards[i].inverse(F.pixel_shuffle(x, 2))
            log_det = log_det + first + second
        images, more = inverse_logit(x)
        return images, log_det + more

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, X, X) in [0, 1] -> the logarithm of their density, in nats, (B,). Equation 3."""
        latents, log_det = self.encode(images)
        return -0.5 * (latents.square() + math.log(2 * math.pi)).sum(1) + log_det

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Latent variables (count, D) from the standard normal distribution, on the CPU."""
        return torch.randn(count, self.channels * self.size**2, generator=generator)

    def draw(self, latents: Tensor) -> Tensor:
        """Latent variables (B, D) -> images (B, C, X, X), cut to [0, 1]."""
        return self.decode(latents)[0].float().clamp(0, 1)


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"features": 24, "blocks": 1, "scales": 2},
    "cifar10": {"features": 64, "blocks": 8, "scales": 1, "in_channels": 3, "image_size": 32},
    "tiny": {"features": 4, "blocks": 1, "scales": 1},
}


def build(preset: str = "small", **overrides: Any) -> RealNVP:
    """Return a flow by the name of its preset; `overrides` are arguments of `RealNVP`."""
    return RealNVP(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, X, X)."""
    size = PRESETS[preset].get("image_size", 28)
    return (torch.zeros(1, PRESETS[preset].get("in_channels", 1), size, size),)
