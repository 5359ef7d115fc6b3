"""DCGAN: a generative adversarial network of convolutions.

"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks", Alec Radford, Luke Metz,
Soumith Chintala, 2015, https://arxiv.org/abs/1511.06434, section 3 and figure 1.

The generator turns noise into images, the discriminator says whether an image is real. No pooling, strides instead; batch norm
but in the generator's output and the discriminator's input; ReLU and tanh in the one, leaky ReLU in the other.

Presets: "lsun" is the paper's for images of 64x64, with the kernels of 5x5 of figure 1 and the widths of the authors' code
(https://github.com/Newmu/dcgan_code). "tutorial" is the network of half the width and kernels of 4x4 that dcgan.torch began and
PyTorch's tutorial teaches. "small" is ours, for 28x28 on a CPU.

Deviations: none in "tutorial". In "lsun" the first batch norm is per channel, as all others; the authors' code has a scale for
each of its 16,384 values.

With `norm="layer"` the discriminator is a critic of "Improved Training of Wasserstein GANs", Gulrajani et al. 2017,
https://arxiv.org/abs/1704.00028, section 4: layer norms in the place of batch norms, so that the gradient at an image depends
on that image alone.
"""

from functools import partial
from typing import Any, Literal, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B batch, Z numbers of noise, C channels, X side of a feature map

Norm = Literal["batch", "layer"]


def up(in_channels: int, out_channels: int, kernel_size: int) -> nn.ConvTranspose2d:
    """Fractionally-strided convolution: (B, in_channels, X, X) -> (B, out_channels, 2 X, 2 X)."""
    padding, odd = (kernel_size - 1) // 2, kernel_size % 2
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size, 2, padding, output_padding=odd, bias=False)


def down(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Strided convolution: (B, in_channels, 2 X, 2 X) -> (B, out_channels, X, X)."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, 2, (kernel_size - 1) // 2, bias=False)


def uniform_noise(
    count: int, latent: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """(count, latent), uniform in [-1, 1]: figure 1."""
    return torch.rand(count, latent, generator=generator, device=device) * 2 - 1


class Generator(nn.Module):
    """Noise (B, Z) -> images (B, channels, image_size, image_size) in [-1, 1]."""

    def __init__(self, latent: int, widths: Sequence[int], channels: int, image_size: int, kernel_size: int) -> None:
        super().__init__()
        start = image_size // 2 ** len(widths)
        self.project = sequential(
            conv=nn.ConvTranspose2d(latent, widths[0], start, bias=False), norm=nn.BatchNorm2d(widths[0]), act=nn.ReLU()
        )
        self.blocks = nn.ModuleList(
            sequential(conv=up(wide, narrow, kernel_size), norm=nn.BatchNorm2d(narrow), act=nn.ReLU())
            for wide, narrow in zip(widths, widths[1:])
        )
        self.output = sequential(conv=up(widths[-1], channels, kernel_size), act=nn.Tanh())

    def forward(self, noise: Tensor) -> Tensor:
        x = self.project(noise[:, :, None, None])  # (B, Z) -> (B, Z, 1, 1) -> (B, C, X, X)
        for block in self.blocks:
            x = block(x)  # (B, C, X, X) -> (B, C/2, 2 X, 2 X)
        return self.output(x)


class Discriminator(nn.Module):
    """Images (B, channels, image_size, image_size) -> logits (B,), large for those it takes for real.

    A layer norm is over all C X X numbers of an image, with a scale for each channel.
    """

    def __init__(self, widths: Sequence[int], channels: int, image_size: int, kernel_size: int, norm: Norm = "batch") -> None:
        super().__init__()
        make_norm = nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, 1)
        self.stem = sequential(conv=down(channels, widths[-1], kernel_size), act=nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList(
            sequential(conv=down(narrow, wide, kernel_size), norm=make_norm(wide), act=nn.LeakyReLU(0.2))
            for narrow, wide in zip(widths[::-1], widths[-2::-1])
        )
        self.head = nn.Conv2d(widths[0], 1, image_size // 2 ** len(widths), bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)  # (B, C, X, X) -> (B, 2 C, X/2, X/2)
        return self.head(x).flatten()  # (B, 1, 1, 1) -> (B,)


class DCGAN(nn.Module):
    """Both networks.

    Args:
        latent: size of the noise vector of an image.
        widths: channels of the generator's maps, each twice as large as the one before; of the discriminator's, backwards.
        kernel_size: of all convolutions but those from and to one pixel.
        norm: of the discriminator.

    Raises `ValueError` for an image that cannot be halved as often as there are widths.
    """

    def __init__(
        self,
        latent: int = 100,
        widths: Sequence[int] = (1024, 512, 256, 128),
        channels: int = 3,
        image_size: int = 64,
        kernel_size: int = 5,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        if image_size % 2 ** len(widths):
            times = len(widths)
            raise ValueError(f"images of {image_size} pixels cannot be halved {times} times: multiples of {2**times} can")
        self.latent = latent
        self.generator = Generator(latent, widths, channels, image_size, kernel_size)
        self.discriminator = Discriminator(widths, channels, image_size, kernel_size, norm)
        self.init_weights()

    def init_weights(self) -> None:
        """Section 4: all weights normal with std 0.02; in the authors' code scales of batch norms, too, around 1."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)

    def forward(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Noise (B, Z) -> the images that it becomes, and what the discriminator says of them, (B,)."""
        images = self.generator(noise)
        return images, self.discriminator(images)

    def prior(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Noise (count, Z) as training draws it, on the CPU."""
        return uniform_noise(count, self.latent, generator)

    def draw(self, latents: Tensor) -> Tensor:
        """Noise (B, Z) -> images (B, C, X, X) in [0, 1]."""
        return (self.generator(latents).float() + 1) / 2


PRESETS: dict[str, dict[str, Any]] = {
    "small": {"widths": (64, 32), "channels": 1, "image_size": 28, "kernel_size": 4},
    "lsun": {},
    "tutorial": {"widths": (512, 256, 128, 64), "kernel_size": 4},
    "tiny": {"latent": 10, "widths": (8, 4), "channels": 1, "image_size": 28, "kernel_size": 4},
}


def build(preset: str = "small", **overrides: Any) -> DCGAN:
    """Return a DCGAN by the name of its preset; `overrides` are arguments of `DCGAN`."""
    return DCGAN(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return the noise of an image, zeros (1, Z)."""
    return (torch.zeros(1, PRESETS[preset].get("latent", 100)),)
