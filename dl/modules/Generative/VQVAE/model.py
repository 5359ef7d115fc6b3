"""VQ-VAE: an autoencoder whose latent variables are entries of a learned codebook, and a GPT as the prior over them.

"Neural Discrete Representation Learning", Aaron van den Oord, Oriol Vinyals, Koray Kavukcuoglu, 2017,
https://arxiv.org/abs/1711.00937.

The encoder makes a small map of vectors; each is replaced by the nearest vector of the codebook, whose number is all that is
kept of it. An autoregressive model of these numbers, learned afterwards, draws new maps, which the decoder turns into images.

Presets: "paper" has the sizes of section 4.1, "small" is ours, for 28x28 on a CPU. `PRIORS` are those of the second stage.

Deviations:
- The prior is GPT-2 in place of PixelCNN, and reads the codes row by row.
- The codes' width in "paper" (64) and how the codebook starts are not in the paper: uniform in +-1/K, as in public code.
- With a moving average, entries that nothing takes begin again (`restart`), as in Dhariwal et al. 2020, section 3.1,
  https://arxiv.org/abs/2005.00341; else a handful of entries may serve for all.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from dl.modules.GPT.GPT2.model import GPT2
from dl.mytorch.layers import sequential

# B batch, C channels, X side of an image, Y side of the map of codes, F features, D width of a code, K codes, T = Y Y


class Quantized(NamedTuple):
    """What the quantizer makes of a map of vectors."""

    vectors: Tensor  # (B, D, Y, Y), the codebook's; gradients pass to the encoder's as if they were the same
    codes: Tensor  # (B, Y, Y), numbers of the vectors
    codebook_loss: Tensor  # (B,): moves the codebook to the encoder's vectors; 0 with a moving average
    commitment_loss: Tensor  # (B,): moves the encoder's vectors to the codebook


class Quantizer(nn.Module):
    """The nearest vector of a codebook, equation 1, with both terms of equation 3 and the straight-through gradient.

    Args:
        num_codes: K.
        dim: D.
        decay: of the moving average by which the codebook follows the encoder (appendix A.1); 0 = by gradient.
        restart: with a decay, entries that fewer vectors a step take on average begin again, at vectors of its first image.
    """

    def __init__(self, num_codes: int, dim: int, decay: float = 0.0, restart: float = 0.0) -> None:
        super().__init__()
        self.num_codes, self.decay, self.restart = num_codes, decay, restart
        codebook = torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes)
        if decay:
            self.register_buffer("codebook", codebook)
            self.register_buffer("counts", torch.ones(num_codes))
            self.register_buffer("sums", codebook.clone())
        else:
            self.codebook = nn.Parameter(codebook)

    @torch.no_grad()
    def codes(self, z: Tensor) -> Tensor:
        """Return the numbers of the vectors nearest to those of z (B, D, Y, Y), (B, Y, Y)."""
        return torch.cdist(z.movedim(1, -1).flatten(0, 2), self.codebook).argmin(1).view(len(z), *z.shape[2:])

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes (B, Y, Y), (B, D, Y, Y)."""
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    def forward(self, z: Tensor) -> Quantized:
        """z (B, D, Y, Y) -> its quantization. In training with a decay the codebook moves afterwards."""
        codes = self.codes(z)
        vectors = self.vectors(codes)
        codebook_loss = z.new_zeros(len(z)) if self.decay else (vectors - z.detach()).square().flatten(1).mean(1)
        commitment_loss = (z - vectors.detach()).square().flatten(1).mean(1)
        quantized = Quantized(z + (vectors - z).detach(), codes, codebook_loss, commitment_loss)
        if self.decay and self.training:
            self.follow(z.detach(), codes)
        return quantized

    @torch.no_grad()
    def follow(self, z: Tensor, codes: Tensor) -> None:
        """Move each vector towards the mean of those of z (B, D, Y, Y) that took it, on all ranks. Appendix A.1."""
        flat, taken = z.movedim(1, -1).flatten(0, 2), F.one_hot(codes.flatten(), self.num_codes).to(z.dtype)  # (N, D), (N, K)
        totals = torch.cat([taken.sum(0)[:, None], taken.T @ flat], dim=1)  # (K, 1 + D)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(totals)
        self.counts.lerp_(totals[:, 0].to(self.counts.dtype), 1 - self.decay)
        self.sums.lerp_(totals[:, 1:].to(self.sums.dtype), 1 - self.decay)
        self.codebook.copy_(self.sums / self.counts[:, None].clamp(min=1e-5))  # of a code that nothing takes both go to 0
        if self.restart:
            self.restart_unused(z[:1].movedim(1, -1).flatten(0, 2))

    def restart_unused(self, vectors: Tensor) -> None:
        """Put entries that hardly anything takes at `vectors` (Y Y, D), the least used first; those of rank 0 on all ranks."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.broadcast(vectors := vectors.contiguous(), src=0)
        least = self.counts.argsort(stable=True)[: len(vectors)]
        unused = (self.counts[least] < self.restart)[:, None]
        vectors = torch.where(unused, vectors[: len(least)].to(self.codebook.dtype), self.codebook[least])
        self.counts[least] = torch.where(unused[:, 0], 1.0, self.counts[least])
        self.sums[least] = torch.where(unused, vectors, self.sums[least])
        self.codebook[least] = vectors


class ResidualBlock(nn.Module):
    """x + ReLU, 3x3, ReLU, 1x1: (B, F, Y, Y) -> (B, F, Y, Y). Section 4.1."""

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


class VQVAE(nn.Module):
    """Encoder, quantizer and decoder of images (B, in_channels, image_size, image_size) with values in [-1, 1].

    Args:
        features: hidden units of both networks.
        num_codes: entries of the codebook, K.
        dim: width of an entry, D.
        decay, restart: as in `Quantizer`.

    Raises `ValueError` for an image that cannot be halved twice.
    """

    def __init__(
        self,
        features: int = 64,
        num_codes: int = 128,
        dim: int = 16,
        decay: float = 0.0,
        restart: float = 0.0,
        in_channels: int = 1,
        image_size: int = 28,
    ) -> None:
        super().__init__()
        if image_size % 4:
            raise ValueError(f"images of {image_size} pixels cannot be halved 2 times: multiples of 4 can")
        self.side = image_size // 4
        self.encoder = sequential(
            conv1=nn.Conv2d(in_channels, features, 4, stride=2, padding=1),  # X -> X/2
            act=nn.ReLU(),
            conv2=nn.Conv2d(features, features, 4, stride=2, padding=1),  # X/2 -> X/4 = Y
            block1=ResidualBlock(features),
            block2=ResidualBlock(features),
            output=nn.Conv2d(features, dim, 1),
        )
        self.quantizer = Quantizer(num_codes, dim, decay, restart)
        self.decoder = sequential(
            stem=nn.Conv2d(dim, features, 1),
            block1=ResidualBlock(features),
            block2=ResidualBlock(features),
            conv1=nn.ConvTranspose2d(features, features, 4, stride=2, padding=1),  # Y -> 2 Y
            act=nn.ReLU(),
            conv2=nn.ConvTranspose2d(features, in_channels, 4, stride=2, padding=1),  # 2 Y -> X
        )

    def codes(self, images: Tensor) -> Tensor:
        """Images (B, C, X, X) -> the numbers that are left of them, (B, Y, Y)."""
        return self.quantizer.codes(self.encoder(images))

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """Images (B, C, X, X) -> what comes back, (B, C, X, X), and the quantization of the map between."""
        quantized = self.quantizer(self.encoder(images))
        return self.decoder(quantized.vectors), quantized

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Latent variables (count, D Y Y): vectors of the codebook, by the uniform prior of the first stage, on the CPU."""
        codes = torch.randint(self.quantizer.num_codes, (count, self.side, self.side), generator=generator)
        return self.latents(codes)

    def latents(self, codes: Tensor) -> Tensor:
        """Return the vectors of codes (B, Y, Y) in a row, (B, D Y Y), on the CPU."""
        return self.quantizer.vectors(codes.to(self.quantizer.codebook.device)).flatten(1).detach().cpu()

    def draw(self, latents: Tensor) -> Tensor:
        """Latent variables (B, D Y Y) -> images (B, C, X, X) in [0, 1]. They may lie between those of the codebook."""
        images = self.decoder(latents.unflatten(1, (-1, self.side, self.side))).float()
        return ((images + 1) / 2).clamp(0, 1)


class CodePrior(nn.Module):
    """p(codes) of a trained `autoencoder`, which is frozen: each code given those before it, row by row. Section 3.2.

    Other arguments are those of `GPT2`.
    """

    def __init__(self, autoencoder: VQVAE, **options: Any) -> None:
        super().__init__()
        self.autoencoder = autoencoder.requires_grad_(False)
        self.num_codes, self.length = autoencoder.quantizer.num_codes, autoencoder.side**2
        # One more token starts a map.
        self.gpt = GPT2(vocab_size=self.num_codes + 1, max_length=self.length, dropout=0.0, **options)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, X, X) -> logits (B, T, K) of their codes, and the codes (B, T)."""
        with torch.no_grad():
            codes = self.autoencoder.codes(images).flatten(1)
        return self.logits(codes), codes

    def logits(self, codes: Tensor) -> Tensor:
        """Codes (B, T) -> logits (B, T, K), those at t from the codes before t alone."""
        start = codes.new_full((len(codes), 1), self.num_codes)
        return self.gpt(torch.cat([start, codes[:, :-1]], dim=1))[..., : self.num_codes]

    @torch.no_grad()
    def draw_codes(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return maps of codes (count, Y, Y), drawn one code after the other, on the CPU."""
        token = torch.full((count, 1), self.num_codes)
        cache, codes = self.gpt.new_cache(), []
        device = self.gpt.token_embedding.weight.device
        for _ in range(self.length):
            logits = self.gpt(token.to(device), cache=cache)[:, -1, : self.num_codes]  # (count, K)
            token = torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)
            codes.append(token)
        return torch.cat(codes, dim=1).unflatten(1, (self.autoencoder.side, -1))

    @property
    def calls(self) -> int:
        """Return how often a network is called for an image: the prior for each code, then the decoder."""
        return self.length + 1

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Latent variables (count, D Y Y) of codes that this model draws, on the CPU."""
        parts = [500] * (count // 500) + [count % 500] * (count % 500 > 0)  # of which the cache holds keys and values
        return self.autoencoder.latents(torch.cat([self.draw_codes(part, generator) for part in parts]))

    def draw(self, latents: Tensor) -> Tensor:
        """Latent variables (B, D Y Y) -> images (B, C, X, X) in [0, 1]."""
        return self.autoencoder.draw(latents)


PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    "paper": {"features": 256, "num_codes": 512, "dim": 64, "in_channels": 3, "image_size": 32},
    "tiny": {"features": 8, "num_codes": 6, "dim": 3},
}
PRIORS: dict[str, dict[str, Any]] = {
    "small": {"dim": 64, "depth": 4, "num_heads": 4},
    "medium": {"dim": 128, "depth": 6, "num_heads": 4},
    "tiny": {"dim": 8, "depth": 1, "num_heads": 2},
}


def build(preset: str = "small", **overrides: Any) -> VQVAE:
    """Return a VQ-VAE by the name of its preset; `overrides` are arguments of `VQVAE`."""
    return VQVAE(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, X, X)."""
    size = PRESETS[preset].get("image_size", 28)
    return (torch.zeros(1, PRESETS[preset].get("in_channels", 1), size, size),)
