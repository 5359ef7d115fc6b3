"""The first stage: an autoencoder of images whose latent variables are a small map of normal distributions.

Rombach et al. 2021, https://arxiv.org/abs/2112.10752, section 3.1 and appendix G, the "KL-reg." variant: the latents are kept
near a normal distribution by a small penalty. "kl_f8" is the paper's for text to image; the others are ours.
"""

from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import fused_attention, sequential

# B batch, C channels, X side of an image or map, Z channels of the latents, Y their side, E width of the time's embedding


class Posterior(NamedTuple):
    """q(z | image): independent normal distributions, (B, Z, Y, Y) each."""

    mean: Tensor
    log_variance: Tensor  # from -30 to 20

    def sample(self) -> Tensor:
        """Return latents (B, Z, Y, Y), drawn."""
        return self.mean + (self.log_variance / 2).exp() * torch.randn_like(self.mean)

    def kl(self) -> Tensor:
        """Return the divergence from the standard normal distribution in nats, summed over a map: (B,)."""
        terms = self.mean.square() + self.log_variance.exp() - 1 - self.log_variance
        return terms.flatten(1).sum(1) / 2


class ResidualBlock(nn.Module):
    """x + conv(norm(conv(norm(x)) + time)), with SiLU after each norm. (B, in_channels, X, X) -> (B, out_channels, X, X).

    `embedding`: width of the time's embedding, 0 = the block takes none.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, eps: float = 1e-6, embedding: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = nn.Linear(embedding, out_channels) if embedding else None
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.act = nn.SiLU()
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        y = self.conv1(self.act(self.norm1(x)))
        if self.time is not None:
            y = y + self.time(embedding)[:, :, None, None]  # (B, E) -> (B, C, 1, 1)
        return self.shortcut(x) + self.conv2(self.act(self.norm2(y)))


class AttentionBlock(nn.Module):
    """x + attention(norm(x)) in one head, where each position of a map attends to all. (B, C, X, X) -> the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.norm(x).flatten(2).transpose(1, 2)  # (B, C, X, X) -> (B, X X, C)
        query, key, value = (layer(positions)[:, None] for layer in (self.query, self.key, self.value))  # (B, 1, X X, C)
        y = self.output(fused_attention(query, key, value)[:, 0])  # (B, X X, C)
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])  # (B, X X, C) -> (B, C, X, X)


class Downsample(nn.Module):
    """(B, C, X, X) -> (B, C, X/2, X/2) by a convolution. Its padding is right and below."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """(B, C, X, X) -> (B, C, 2X, 2X), or to another `size`: the nearest value, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        return self.conv(F.interpolate(x, tuple(size)) if size else F.interpolate(x, scale_factor=2.0))


class Level(nn.Module):
    """The blocks of one resolution, and the change to the next."""

    def __init__(self, blocks: Sequence[nn.Module], resample: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.resample(x)


def middle(channels: int, groups: int) -> nn.Sequential:
    """Return what works at the lowest resolution: attention between two residual blocks."""
    return sequential(
        block1=ResidualBlock(channels, channels, groups),
        attention=AttentionBlock(channels, groups),
        block2=ResidualBlock(channels, channels, groups),
    )


class Encoder(nn.Module):
    """Images (B, C, X, X) -> means and log-variances in a row, (B, 2Z, Y, Y)."""

    def __init__(self, widths: Sequence[int], depth: int, in_channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        channels = widths[0]
        for i, width in enumerate(widths):
            blocks = [ResidualBlock(channels if j == 0 else width, width, groups) for j in range(depth)]
            self.levels.append(Level(blocks, nn.Identity() if i == len(widths) - 1 else Downsample(width)))
            channels = width
        self.middle = middle(channels, groups)
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.act = nn.SiLU()
        self.head = nn.Conv2d(channels, 2 * latent_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for level in self.levels:
            x = level(x)
        return self.head(self.act(self.norm(self.middle(x))))


class Decoder(nn.Module):
    """Latents (B, Z, Y, Y) -> images (B, C, X, X). Each level has one block more than the encoder's."""

    def __init__(self, widths: Sequence[int], depth: int, out_channels: int, latent_channels: int, groups: int) -> None:
        super().__init__()
        channels = widths[-1]
        self.stem = nn.Conv2d(latent_channels, channels, 3, padding=1)
        self.middle = middle(channels, groups)
        self.levels = nn.ModuleList()
        for i, width in reversed(list(enumerate(widths))):
            blocks = [ResidualBlock(channels if j == 0 else width, width, groups) for j in range(depth + 1)]
            self.levels.append(Level(blocks, Upsample(width) if i else nn.Identity()))
            channels = width
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.act = nn.SiLU()
        self.head = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.middle(self.stem(latents))
        for level in self.levels:
            x = level(x)
        return self.head(self.act(self.norm(x)))


class Autoencoder(nn.Module):
    """Images (B, in_channels, X, X) in [-1, 1] to latents (B, latent_channels, Y, Y) and back.

    Args:
        widths: channels at each resolution, which halves from one to the next.
        depth: residual blocks for each resolution of the encoder; the decoder has one more.
        groups: of the group norms; a divisor of each width.
    """

    def __init__(
        self, widths: Sequence[int], depth: int = 2, latent_channels: int = 4, in_channels: int = 3, groups: int = 32
    ) -> None:
        super().__init__()
        self.halvings, self.latent_channels = len(widths) - 1, latent_channels
        self.encoder = Encoder(widths, depth, in_channels, latent_channels, groups)
        self.to_moments = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1)
        self.from_latents = nn.Conv2d(latent_channels, latent_channels, 1)
        self.decoder = Decoder(widths, depth, in_channels, latent_channels, groups)

    def posterior(self, images: Tensor) -> Posterior:
        """Images (B, C, X, X) -> the distribution of their latents. Raises `ValueError` as `side`."""
        for size in images.shape[2:]:
            self.side(size)
        mean, log_variance = self.to_moments(self.encoder(images)).chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-30, 20))

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, Z, Y, Y) -> images (B, C, X, X), about in [-1, 1]."""
        return self.decoder(self.from_latents(latents))

    def forward(self, images: Tensor) -> tuple[Tensor, Posterior]:
        """Images (B, C, X, X) -> what comes back of them, and q(z | image): in training of drawn latents, else of the means."""
        posterior = self.posterior(images)
        return self.decode(posterior.sample() if self.training else posterior.mean), posterior

    def side(self, size: int) -> int:
        """Return the side of the latents of images of `size` pixels. Raises `ValueError` if it cannot be halved so often."""
        if size % 2**self.halvings:
            raise ValueError(f"a side of {size} pixels cannot be halved {self.halvings} times")
        return size // 2**self.halvings


AUTOENCODERS: dict[str, dict[str, Any]] = {
    "small": {"widths": (16, 16, 32), "depth": 1, "in_channels": 1, "groups": 8},
    "kl_f8": {"widths": (128, 256, 512, 512), "depth": 2},
    "tiny": {"widths": (4, 8), "depth": 1, "latent_channels": 2, "in_channels": 1, "groups": 2},
}


def build_autoencoder(preset: str = "small", **overrides: Any) -> Autoencoder:
    """Return an autoencoder by the name of its preset; `overrides` are arguments of `Autoencoder`."""
    return Autoencoder(**{**AUTOENCODERS[preset], **overrides})
