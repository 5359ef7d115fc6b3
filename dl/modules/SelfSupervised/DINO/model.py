"""DINO, self-distillation without labels.

"Emerging Properties in Self-Supervised Vision Transformers", Mathilde Caron, Hugo Touvron, Ishan Misra, Herve Jegou, Julien
Mairal, Piotr Bojanowski, Armand Joulin, 2021, https://arxiv.org/abs/2104.14294, section 3 and figure 2.

An encoder, a ViT, makes features of an image, and a head makes K numbers of these. Student and teacher are two such networks;
the teacher's weights are a moving average of the student's. What is kept afterwards is the teacher's encoder. loss.py has the
loss, task.py how both learn.

"vit_s_16", "vit_s_8" and "vit_b_16" are the paper's; "small" and "small_4" are ours, for 32x32 on a CPU, with patches of 8
and 4 pixels, and "tiny" is for tests.

Deviations from the authors' code, https://github.com/facebookresearch/dino: linear layers start by Xavier's rule, since its
standard deviation, 0.02, is for wide networks; the student has no stochastic depth.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import fused_attention, sequential

# B images, X their side, N patches, T = 1 + N tokens, C width, H heads, K outputs of the head


class SelfAttention(nn.Module):
    """Each token attends to all, in H heads. Raises `ValueError` for a width that does not divide into heads."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}")
        self.num_heads = num_heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        heads = self.query_key_value(x).unflatten(2, (3, self.num_heads, -1))  # (B, T, 3 C) -> (B, T, 3, H, C / H)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # 3 of (B, H, T, C / H)
        return self.output(fused_attention(query, key, value).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and feed-forward, each with its norm before it and a shortcut around both: (B, T, C) -> (B, T, C)."""

    def __init__(self, dim: int, num_heads: int, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.attention = SelfAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.feed_forward = sequential(fc1=nn.Linear(dim, 4 * dim), act=nn.GELU(), fc2=nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class Encoder(nn.Module):
    """A ViT without classifier: images (B, in_channels, X, X) -> the class token's output (B, C).

    Raises `ValueError` for patches that do not divide the image.
    """

    def __init__(
        self, image_size: int, patch_size: int, dim: int, depth: int, num_heads: int, in_channels: int, norm_eps: float = 1e-6
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not divide an image of {image_size}")
        self.patch_embedding = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.empty(dim))
        self.position_embedding = nn.Parameter(torch.empty(1 + (image_size // patch_size) ** 2, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, C, X/p, X/p) -> (B, N, C)
        x = torch.cat([self.class_token.expand(len(patches), 1, -1), patches], dim=1) + self.position_embedding  # (B, T, C)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])


class Prototypes(nn.Module):
    """The cosine of x (B, D) with each of K rows, (B, K): a linear layer whose rows and inputs have length 1."""

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_outputs, dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


class DINO(nn.Module):
    """forward: images (B, in_channels, X, X) -> outputs (B, K), cosines. What a softmax makes of them is the loss's choice.

    Args:
        hidden: width of the head's two hidden layers (appendix C).
        bottleneck: width of what the prototypes see.
        num_outputs: K.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,  # C
        depth: int,
        num_heads: int,  # H
        hidden: int,
        bottleneck: int,
        num_outputs: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.dim, self.num_outputs = dim, num_outputs
        self.encoder = Encoder(image_size, patch_size, dim, depth, num_heads, in_channels)
        self.head = sequential(
            fc1=nn.Linear(dim, hidden),
            act1=nn.GELU(),
            fc2=nn.Linear(hidden, hidden),
            act2=nn.GELU(),
            fc3=nn.Linear(hidden, bottleneck),
            prototypes=Prototypes(bottleneck, num_outputs),
        )
        self.register_buffer("centre", torch.zeros(num_outputs))  # of a teacher: the moving mean of its outputs
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights.

        - linear layers: Xavier uniform, biases 0
        - class token, positions: normal, std 0.02
        - prototypes: uniform in +-1 / sqrt(bottleneck); only their directions count
        - patch embedding, norms: as torch does
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.encoder.class_token, std=0.02)
        nn.init.trunc_normal_(self.encoder.position_embedding, std=0.02)
        bound = self.head.prototypes.weight.shape[1] ** -0.5
        nn.init.uniform_(self.head.prototypes.weight, -bound, bound)

    def represent(self, images: Tensor) -> Tensor:
        """Return the features (B, C) of images (B, in_channels, X, X), which are the encoder's, without the head."""
        return self.encoder(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))


def _paper(dim: int, num_heads: int, patch_size: int = 16) -> dict[str, Any]:
    sizes = {"image_size": 224, "patch_size": patch_size, "dim": dim, "depth": 12, "num_heads": num_heads}
    return {**sizes, "hidden": 2048, "bottleneck": 256, "num_outputs": 65536}


_SMALL = {"image_size": 32, "dim": 64, "depth": 6, "num_heads": 4, "hidden": 256, "bottleneck": 64, "num_outputs": 256}
_TINY = {"image_size": 8, "patch_size": 4, "dim": 16, "depth": 1, "num_heads": 2}

PRESETS: dict[str, dict[str, Any]] = {
    "small": {**_SMALL, "patch_size": 8},
    "small_4": {**_SMALL, "patch_size": 4},
    "vit_s_16": _paper(384, 6),
    "vit_s_8": _paper(384, 6, patch_size=8),
    "vit_b_16": _paper(768, 12),
    "tiny": {**_TINY, "hidden": 16, "bottleneck": 8, "num_outputs": 12},
}


def build(preset: str = "small", **overrides: Any) -> DINO:
    """Return a DINO by the name of its preset; `overrides` are arguments of `DINO`."""
    return DINO(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, 3, X, X)."""
    size = PRESETS[preset]["image_size"]
    return (torch.zeros(1, 3, size, size),)
