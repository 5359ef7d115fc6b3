"""Variational autoencoder.

"Auto-Encoding Variational Bayes", Diederik P. Kingma, Max Welling, 2013, https://arxiv.org/abs/1312.6114.

The encoder gives a normal distribution q(z|x) over latent variables for each image, the decoder the probability p(x|z) that
each pixel is white. What is drawn from the standard normal distribution and decoded is a new image.

Presets: "mlp2" to "mlp200" are the paper's networks for MNIST, of one hidden layer of 500 units on each side (section 5 and
appendix C), with the numbers of latent variables of its figures 2, 4 and 5. "conv" is ours, with convolutions.

Deviations: weights start as torch's layers do, not as normal numbers; the paper's prior over the weights (section 5, a weight
decay) is left to the recipe.
"""

from typing import Any, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, C channels, X side of an image, F features, Z latent variables


class Reparameterization(nn.Module):
    """z = mean + std * noise: a draw from q(z|x) through which gradients reach its parameters. Section 2.4."""

    def forward(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        return mean + (0.5 * log_variance).exp() * torch.randn_like(mean)


def mlp(channels: int, size: int, latent: int, hidden: int) -> tuple[nn.Module, nn.Module]:
    """Return appendix C's encoder, images (B, C, X, X) -> hidden layer (B, hidden), and decoder, (B, Z) -> (B, C, X, X)."""
    pixels = channels * size**2
    encoder = sequential(flat=nn.Flatten(), fc=nn.Linear(pixels, hidden), act=nn.Tanh())
    decoder = sequential(
        fc=nn.Linear(latent, hidden),
        act=nn.Tanh(),
        output=nn.Linear(hidden, pixels),
        shape=nn.Unflatten(1, (channels, size, size)),
    )
    return encoder, decoder


def convolutional(channels: int, size: int, latent: int, hidden: int, widths: Sequence[int]) -> tuple[nn.Module, nn.Module]:
    """Return the same two, with convolutions to `widths` channels, each of which halves the side, and their mirror image."""
    side = size // 2 ** len(widths)
    features = widths[-1] * side**2
    down: dict[str, nn.Module] = {}
    up: dict[str, nn.Module] = {}
    for i, (wide, narrow) in enumerate(zip([channels, *widths], widths), start=1):
        down |= {f"conv{i}": nn.Conv2d(wide, narrow, 4, stride=2, padding=1), f"act{i}": nn.ReLU()}  # X -> X/2
    for i, (narrow, wide) in enumerate(zip(widths[::-1], [*widths[-2::-1], channels]), start=1):
        up |= {f"act{i}": nn.ReLU(), f"conv{i}": nn.ConvTranspose2d(narrow, wide, 4, stride=2, padding=1)}  # X -> 2 X
    encoder = sequential(**down, flat=nn.Flatten(), fc=nn.Linear(features, hidden), act=nn.ReLU())
    decoder = sequential(
        fc=nn.Linear(latent, hidden),
        act=nn.ReLU(),
        spread=nn.Linear(hidden, features),
        shape=nn.Unflatten(1, (widths[-1], side, side)),
        **up,
    )
    return encoder, decoder


class VAE(nn.Module):
    """Encoder and decoder of images (B, in_channels, image_size, image_size) with values in [0, 1].

    Args:
        latent: number of latent variables.
        hidden: units of the fully connected hidden layer on each side.
        widths: channels of the convolutions before it; () = none.

    Raises `ValueError` for an image that the convolutions cannot halve.
    """

    def __init__(
        self, latent: int = 20, hidden: int = 500, widths: Sequence[int] = (), in_channels: int = 1, image_size: int = 28
    ) -> None:
        super().__init__()
        if image_size % 2 ** len(widths):
            times = len(widths)
            raise ValueError(f"images of {image_size} pixels cannot be halved {times} times: multiples of {2**times} can")
        self.latent = latent
        if widths:
            self.encoder, self.decoder = convolutional(in_channels, image_size, latent, hidden, widths)
        else:
            self.encoder, self.decoder = mlp(in_channels, image_size, latent, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.log_variance = nn.Linear(hidden, latent)
        self.reparameterization = Reparameterization()

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and logarithm of the variance of q(z|x), each (B, Z)."""
        features = self.encoder(images)  # (B, C, X, X) -> (B, F)
        return self.mean(features), self.log_variance(features)

    def decode(self, latents: Tensor) -> Tensor:
        """Latent variables (B, Z) -> logits of the pixels (B, C, X, X)."""
        return self.decoder(latents)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits of the pixels (B, C, X, X), decoded from one draw of q(z|x), and that distribution's two parameters."""
        mean, log_variance = self.encode(images)
        return self.decode(self.reparameterization(mean, log_variance)), mean, log_variance

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Latent variables (count, Z) from p(z), the standard normal distribution, on the CPU."""
        return torch.randn(count, self.latent, generator=generator)

    def draw(self, latents: Tensor) -> Tensor:
        """Latent variables (B, Z) -> images (B, C, X, X) in [0, 1]: the probabilities, which look better than draws of them."""
        return self.decode(latents).float().sigmoid()


PRESETS: dict[str, dict[str, Any]] = {
    **{f"mlp{latent}": {"latent": latent} for latent in (20, 2, 3, 5, 10, 200)},
    "conv": {"latent": 20, "hidden": 256, "widths": (32, 64)},
    "tiny": {"latent": 2, "hidden": 16, "widths": (4, 8)},
}


def build(preset: str = "mlp20", **overrides: Any) -> VAE:
    """Return a variational autoencoder by the name of its preset; `overrides` are arguments of `VAE`."""
    return VAE(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    return (torch.zeros(1, 1, 28, 28),)
