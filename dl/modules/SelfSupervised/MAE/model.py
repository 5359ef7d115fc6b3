"""Masked autoencoder (MAE).

"Masked Autoencoders Are Scalable Vision Learners", Kaiming He, Xinlei Chen, Saining Xie, Yanghao Li, Piotr Dollar,
Ross Girshick, 2021, https://arxiv.org/abs/2111.06377, section 3 and figure 1.

Three quarters of an image's patches are hidden. The encoder, a ViT, reads only the others; a small decoder gets its output,
with one learned token in the place of each hidden patch, and predicts the pixels. What is kept afterwards is the encoder.

"vit_b_16" and "vit_l_16" are the paper's; "small" is ours, for 32x32 on a CPU, and "tiny" for tests.

Deviations: none of architecture. Positions are fixed sines and cosines in the order of the authors' code
(https://github.com/facebookresearch/mae), first those of the column; norms have its eps of 1e-6.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Transformers.ViT.model import Block

# B images, X their side, N patches of P numbers, n of them visible, C width, D width of the decoder


def patchify(images: Tensor, size: int) -> Tensor:
    """Return the patches of images (B, C, X, X), row by row: (B, N, size * size * C), of each its rows, pixels, channels."""
    patches = images.unfold(2, size, size).unfold(3, size, size)  # (B, C, X/size, X/size, size, size)
    return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """Return the images (B, C, X, X) of square grids of patches (B, N, size * size * C)."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(2, (size, size, -1)).unflatten(1, (side, side))  # (B, side, side, size, size, C)
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def positions(side: int, dim: int) -> Tensor:
    """Return sines and cosines of the column, then of the row, of side x side patches, after zeros for the class token."""
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    places = torch.arange(side, dtype=torch.float64)[:, None] * frequencies  # (side, dim / 4)
    waves = torch.cat([places.sin(), places.cos()], dim=1)  # (side, dim / 2)
    columns, rows = waves.repeat(side, 1), waves.repeat_interleave(side, 0)  # (N, dim / 2)
    return torch.cat([torch.zeros(1, dim), torch.cat([columns, rows], dim=1).float()])  # (1 + N, dim)


class MAE(nn.Module):
    """forward: images (B, in_channels, X, X), noise (B, N) -> predictions (B, N, P) of all patches.

    The n patches of least noise are visible, N * (1 - mask_ratio) of them, rounded down. Raises `ValueError` for patches that
    do not divide the image, and for widths that are not multiples of 4.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,  # C
        depth: int,
        num_heads: int,
        decoder_dim: int,  # D
        decoder_depth: int,
        decoder_heads: int,
        in_channels: int = 3,
        mask_ratio: float = 0.75,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if image_size % patch_size or dim % 4 or decoder_dim % 4:
            raise ValueError(
                f"patches of {patch_size} pixels have to divide {image_size}, and 4 the widths {dim}, {decoder_dim}"
            )
        self.patch_size, self.dim, self.mask_ratio = patch_size, dim, mask_ratio
        side, length = image_size // patch_size, in_channels * patch_size**2  # P
        self.num_patches = side**2  # N
        self.patch_embedding = nn.Linear(length, dim)
        self.class_token = nn.Parameter(torch.empty(dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, 4 * dim, 0.0, 0.0, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.decoder_embedding = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(decoder_dim))
        sizes = (decoder_dim, decoder_heads, 4 * decoder_dim, 0.0, 0.0, norm_eps)
        self.decoder_blocks = nn.ModuleList(Block(*sizes) for _ in range(decoder_depth))
        self.decoder_norm = nn.LayerNorm(decoder_dim, norm_eps)
        self.head = nn.Linear(decoder_dim, length)
        self.register_buffer("positions", positions(side, dim), persistent=False)
        self.register_buffer("decoder_positions", positions(side, decoder_dim), persistent=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Linear layers: Xavier uniform, biases 0 (appendix A.1). Class and mask token: normal, std 0.02, as in the code."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def visible(self, noise: Tensor) -> Tensor:
        """Return the places (B, n) of the visible patches."""
        return noise.argsort(dim=1)[:, : int(self.num_patches * (1 - self.mask_ratio))]

    def hidden(self, noise: Tensor) -> Tensor:
        """Return 1 for each hidden patch and 0 for each visible one: (B, N)."""
        return torch.ones_like(noise).scatter(1, self.visible(noise), 0)

    def encode(self, images: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the output (B, 1 + n, C) for the class token and the patches at `places` (B, n); default: for all patches."""
        patches, at = patchify(images, self.patch_size), self.positions[1:].expand(len(images), -1, -1)
        if places is not None:
            patches, at = take(patches, places), take(at, places)
        tokens = self.patch_embedding(patches) + at  # (B, n, P) -> (B, n, C)
        x = torch.cat([self.class_token.expand(len(images), 1, -1), tokens], dim=1)  # (B, 1 + n, C)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def decode(self, encoded: Tensor, places: Tensor) -> Tensor:
        """Return predictions (B, N, P) from what the encoder made (B, 1 + n, C) of the patches at `places` (B, n)."""
        x = self.decoder_embedding(encoded)  # (B, 1 + n, D)
        tokens = self.mask_token.to(x).expand(len(x), self.num_patches, -1)
        tokens = tokens.scatter(1, places[..., None].expand(-1, -1, x.shape[2]), x[:, 1:])  # (B, N, D)
        x = torch.cat([x[:, :1], tokens], dim=1) + self.decoder_positions
        for block in self.decoder_blocks:
            x = block(x)
        return self.head(self.decoder_norm(x))[:, 1:]

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        places = self.visible(noise)
        return self.decode(self.encode(images, places), places)

    def represent(self, images: Tensor) -> Tensor:
        """Return the mean (B, C) over all patches of the encoder's output: no loss asks the class token for anything."""
        return self.encode(images)[:, 1:].mean(1)


def take(rows: Tensor, places: Tensor) -> Tensor:
    """Return the rows (B, n, C) of (B, N, C) at `places` (B, n)."""
    return rows.gather(1, places[..., None].expand(-1, -1, rows.shape[2]))


def _paper(dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    sizes = {"image_size": 224, "patch_size": 16, "dim": dim, "depth": depth, "num_heads": num_heads}
    return {**sizes, "decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16}


_SMALL = {"image_size": 32, "patch_size": 4, "dim": 64, "depth": 6, "num_heads": 4}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {**_SMALL, "decoder_dim": 32, "decoder_depth": 2, "decoder_heads": 2},
    "vit_b_16": _paper(768, 12, 12),
    "vit_l_16": _paper(1024, 24, 16),
    "tiny": {
        **_SMALL,
        "image_size": 8,
        "patch_size": 2,
        "dim": 16,
        "depth": 1,
        "decoder_dim": 8,
        "decoder_depth": 1,
        "decoder_heads": 2,
    },
}


def build(preset: str = "small", **overrides: Any) -> MAE:
    """Return an MAE by the name of its preset; `overrides` are arguments of `MAE`."""
    return MAE(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return an image that the preset takes, zeros (1, 3, X, X), and its noise (1, N)."""
    size = PRESETS[preset]["image_size"]
    return torch.zeros(1, 3, size, size), torch.zeros(1, (size // PRESETS[preset]["patch_size"]) ** 2)
