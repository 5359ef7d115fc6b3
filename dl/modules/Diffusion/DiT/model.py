"""DiT, a transformer where diffusion had a U-Net.

"Scalable Diffusion Models with Transformers", William Peebles, Saining Xie, 2022, https://arxiv.org/abs/2212.09748:
section 3.2 and figure 3 with adaLN-Zero blocks, the sizes of table 1 with patches of 2 ("dit_s_2" to "dit_xl_2"). These are
for the 4 x 32 x 32 latents of a 256 x 256 image of ImageNet, with a learned variance; for images of another kind any preset
takes the arguments of `DiT`: build("dit_s_2", image_size=32, in_channels=3, out_channels=3, num_classes=10).
"small" and "tiny" are ours: for 28x28 on a CPU, and for tests.

Deviations: none. The autoencoder that makes the latents is not part of it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import fused_attention, sequential, time_frequencies

# B batch, C width, H heads, D width of a head, X side of the image, P side of a patch, N = (X / P)^2 patches

FREQUENCIES = 256  # width of the sines and cosines that tell the time, as in the authors' code


def square_positions(grid: int, dim: int) -> Tensor:
    """Fixed positions of the patches, row by row: (grid^2, dim), in float64.

    The first half of the width encodes the column, the second the row; in each half sines come before cosines.
    """
    if dim % 4:
        raise ValueError(f"each half of the width has pairs of a sine and a cosine, so dim has to divide by 4; got {dim}")
    frequency = 10000.0 ** (-torch.arange(0, dim // 2, 2, dtype=torch.float64) / (dim // 2))  # (C/4,)
    angle = torch.arange(grid, dtype=torch.float64)[:, None] * frequency  # (grid, C/4)
    line = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, C/2)
    columns, rows = line.repeat(grid, 1), line.repeat_interleave(grid, 0)
    return torch.cat([columns, rows], dim=1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Return x * (1 + scale) + shift: x (B, N, C), shift and scale (B, 1, C), which leave x as it is where they are 0."""
    return x * (1 + scale) + shift


class Attention(nn.Module):
    """Each patch attends to all, in H heads of width D = C / H. (B, N, C) -> the same.

    Raises `ValueError` for a width that does not divide into heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, N, N)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, N, C) -> (B, N, H, D) -> (B, H, N, D)
            for layer in (self.query, self.key, self.value)
        )
        y = fused_attention(query, key, value, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, N, D) -> (B, N, H, D) -> (B, N, C)


class Block(nn.Module):
    """adaLN-Zero, figure 3: the condition sets shift, scale and gate of both branches. (B, N, C), (B, C) -> (B, N, C)."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 6 * dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.attention = Attention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.feed_forward = sequential(
            fc1=nn.Linear(dim, 4 * dim),
            act=nn.GELU(approximate="tanh"),  # as in the authors' code
            fc2=nn.Linear(4 * dim, dim),
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        told = self.modulation(condition)[:, None]  # (B, C) -> (B, 1, 6 C)
        shift1, scale1, gate1, shift2, scale2, gate2 = told.chunk(6, dim=2)
        x = x + gate1 * self.attention(modulate(self.norm1(x), shift1, scale1))
        return x + gate2 * self.feed_forward(modulate(self.norm2(x), shift2, scale2))


class Head(nn.Module):
    """ "Transformer decoder" of section 3.2: a norm that the condition modulates, then pixels. (B, N, C) -> (B, N, pixels)."""

    def __init__(self, dim: int, pixels: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(dim, 2 * dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.output = nn.Linear(dim, pixels)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)  # (B, 1, 2 C) -> 2 x (B, 1, C)
        return self.output(modulate(self.norm(x), shift, scale))


class DiT(nn.Module):
    """Patches as tokens with fixed positions, blocks that time and label steer, patches again.

    Args:
        image_size, patch_size: sides in pixels, or in positions of the latents.
        out_channels: of the prediction; 0 = as many as the images have. With a learned variance, twice as many.
        num_classes: labels that condition it; 0 = none. One row more stands for "no label".
        frequency_shift: the slowest of H time frequencies is 10000^-((H - 1) / (H - shift)): 0 in the authors' code,
            1 in diffusers.

    Raises `ValueError` for patches that do not divide the image, and for a width without room for sines and cosines or
    that does not divide into heads.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        in_channels: int = 4,
        out_channels: int = 0,
        num_classes: int = 0,
        frequency_shift: int = 0,
    ) -> None:
        super().__init__()
        if image_size % patch_size or dim % 4:
            raise ValueError(f"patch_size {patch_size} has to divide image_size {image_size}, and 4 dim {dim}")
        self.image_size, self.patch_size, self.num_classes = image_size, patch_size, num_classes
        self.frequency_shift = frequency_shift
        self.grid = image_size // patch_size
        self.patch_embedding = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        positions = square_positions(self.grid, dim).to(torch.get_default_dtype())
        self.register_buffer("positions", positions, persistent=False)
        self.time = sequential(fc1=nn.Linear(FREQUENCIES, dim), act=nn.SiLU(), fc2=nn.Linear(dim, dim))
        self.label = nn.Embedding(num_classes + 1, dim) if num_classes else None
        self.act = nn.SiLU()
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))
        self.head = Head(dim, patch_size**2 * (out_channels or in_channels))
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as https://github.com/facebookresearch/DiT (models.py); all biases but the patches' are 0.

        Linear layers and the patches' kernels, as matrices: Xavier uniform. Time and label: normal with std 0.02.
        Modulations and the output: 0, so that every block starts as the identity and the prediction as 0.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.patch_embedding.weight.flatten(1))
        for layer in (self.time.fc1, self.time.fc2, *([self.label] if self.label else [])):
            nn.init.normal_(layer.weight, std=0.02)
        for layer in (*(block.modulation for block in self.blocks), self.head.modulation, self.head.output):
            nn.init.zeros_(layer.weight)

    def forward(self, images: Tensor, times: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Noisy images (B, in_channels, X, X) at times (B,) -> the prediction (B, out_channels, X, X).

        Without times, all are 0. Labels (B,) of a network with num_classes = K are from 0 to K, where K is "no label";
        that is also what it assumes without labels. Raises `ValueError` for images of another size, and for labels of a
        network that takes none.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise ValueError(f"the model takes images of {self.image_size} x {self.image_size}; got {height} x {width}")
        condition = self.embed(images.new_zeros(len(images)) if times is None else times, labels)  # (B, C)
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, in_channels, X, X) -> (B, C, N) -> (B, N, C)
        x = x + self.positions
        for block in self.blocks:
            x = block(x, condition)
        x = self.head(x, condition)  # (B, N, P P out_channels)
        side = self.patch_size
        x = x.unflatten(2, (side, side, -1)).unflatten(1, (self.grid, self.grid))  # (B, X/P, X/P, P, P, out_channels)
        x = x.permute(0, 5, 1, 3, 2, 4)  # -> (B, out_channels, X/P, P, X/P, P)
        return x.flatten(4).flatten(2, 3)  # -> (B, out_channels, X, X)

    def embed(self, times: Tensor, labels: Tensor | None) -> Tensor:
        """Times (B,) and labels (B,) or None -> (B, C), as the blocks take it."""
        if labels is not None and self.label is None:
            raise ValueError("this network was made without labels (num_classes 0), so it takes none")
        waves = time_frequencies(times, FREQUENCIES, self.frequency_shift).roll(FREQUENCIES // 2, 1)  # cosines first
        condition = self.time(waves.to(self.time.fc1.weight.dtype))
        if self.label is not None:
            if labels is None:
                labels = torch.full_like(times, self.num_classes, dtype=torch.int64)
            condition = condition + self.label(labels)
        return self.act(condition)


def _imagenet(dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    latents = {"image_size": 32, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_classes": 1000}
    return {**latents, "dim": dim, "depth": depth, "num_heads": num_heads}


PRESETS: dict[str, dict[str, Any]] = {
    "dit_s_2": _imagenet(384, 12, 6),
    "dit_b_2": _imagenet(768, 12, 12),
    "dit_l_2": _imagenet(1024, 24, 16),
    "dit_xl_2": _imagenet(1152, 28, 16),
    "small": {"image_size": 28, "patch_size": 4, "dim": 128, "depth": 6, "num_heads": 4, "in_channels": 1},
    "tiny": {"image_size": 28, "patch_size": 7, "dim": 16, "depth": 2, "num_heads": 2, "in_channels": 1},
}


def build(preset: str = "dit_xl_2", **overrides: Any) -> DiT:
    """Return a DiT by the name of its preset; `overrides` are arguments of `DiT`."""
    return DiT(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image, or its latents, that the preset takes: zeros (1, C, H, W)."""
    size = PRESETS[preset].get("image_size", 32)
    return (torch.zeros(1, PRESETS[preset].get("in_channels", 4), size, size),)
