"""Vision Transformer (ViT).

"An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale", Alexey Dosovitskiy and eleven others, 2020,
https://arxiv.org/abs/2010.11929: figure 1 with the sizes of table 1 ("vit_b_16" to "vit_h_14"). "vit_ti_16" and
"vit_s_16" have the sizes of Touvron et al. 2020, https://arxiv.org/abs/2012.12877, table 1, without their distillation.
"small" and "tiny" are ours: for 28x28 on a CPU, and for tests. For small images any preset takes `image_size` and
`patch_size`: build("vit_ti_16", image_size=32, patch_size=4).

Deviations: none of architecture. Norms have the eps 1e-6 of the paper's code, which the paper does not give. The hybrid of
section 3.1, with a convolutional network before the transformer, is not here.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.layers import fused_attention, sequential

# B batch, T tokens, C width, H heads, D width of a head, X side of the image, N = (X / patch_size)^2 patches


class SelfAttention(nn.Module):
    """Each token attends to all, in H heads of width D = C / H: appendix A, equations 5 to 8.

    Raises `ValueError` for a width that does not divide into heads.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, T)
        self.dropout = nn.Dropout(dropout)  # of the attention weights
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)
            for layer in (self.query, self.key, self.value)
        )
        y = fused_attention(query, key, value, dropout=self.dropout, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


class Block(nn.Module):
    """Equations 2 and 3: attention and feed-forward, each with its norm before it and a shortcut around both."""

    def __init__(
        self, dim: int, num_heads: int, hidden_dim: int, dropout: float, attention_dropout: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.attention = SelfAttention(dim, num_heads, attention_dropout)
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.feed_forward = sequential(
            fc1=nn.Linear(dim, hidden_dim),
            act=nn.GELU(),
            dropout=nn.Dropout(dropout),
            fc2=nn.Linear(hidden_dim, dim),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, C) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class ViT(nn.Module):
    """Patches as tokens, a class token before them, learned positions, pre-norm blocks, a linear layer on the class token.

    forward: images (B, in_channels, image_size, image_size) -> logits (B, num_classes).

    Raises `ValueError` for patches that do not divide the image, and in `forward` for images of another size.
    """

    RENAMED = (  # names of earlier versions as regular expressions, and today's
        (r"^positions\.table$", "position_embedding"),
        (r"\.attention\.norm\.", ".norm1."),
        (r"\.attention\.layer\.", ".attention."),
        (r"\.feed_forward\.norm\.", ".norm2."),
        (r"\.feed_forward\.layer\.", ".feed_forward."),
    )

    def __init__(
        self,
        image_size: int,  # X, side of the image in pixels
        patch_size: int,  # side of a patch in pixels
        dim: int,  # C
        depth: int,  # blocks
        num_heads: int,  # H
        hidden_dim: int | None = None,  # width inside the feed-forward of each block; default 4 dim
        num_classes: int = 1000,
        in_channels: int = 3,
        head_dim: int = 0,  # width of a hidden layer with tanh in the head, which the paper has in pre-training; 0 = none
        dropout: float = 0.0,  # of the embeddings and after all linear layers but query, key and value (appendix B.1)
        attention_dropout: float = 0.0,  # of the attention weights; not in the paper
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not divide an image of {image_size}")
        self.image_size = image_size
        self.grid = image_size // patch_size  # patches along a side
        self.patch_embedding = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(dim))
        self.position_embedding = nn.Parameter(nn.init.normal_(torch.empty(1 + self.grid**2, dim), std=0.02))
        self.dropout = nn.Dropout(dropout)
        sizes = (dim, num_heads, hidden_dim or 4 * dim, dropout, attention_dropout, norm_eps)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.head = sequential()
        if head_dim:
            self.head = sequential(hidden=nn.Linear(dim, head_dim), act=nn.Tanh())
        self.head.add_module("output", nn.Linear(head_dim or dim, num_classes))
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as the paper's code: https://github.com/google-research/vision_transformer (models_vit.py).

        - class token: 0
        - position embedding: normal, std 0.02, where it is defined
        - attention: Xavier uniform, biases 0
        - feed-forward: Xavier uniform, biases normal, std 1e-6
        - patch embedding, hidden layer of the head: normal, std 1 / sqrt(fan-in), cut off at two of these; biases 0
        - output layer: 0 (section 3.2)
        - norms: scale 1, shift 0
        """
        for block in self.blocks:
            attention = (block.attention.query, block.attention.key, block.attention.value, block.attention.output)
            for layer in (*attention, block.feed_forward.fc1, block.feed_forward.fc2):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)
            for layer in attention:  # after the draws: a seed draws the same weights as in earlier versions
                nn.init.zeros_(layer.bias)
        for layer in (self.patch_embedding, *([self.head.hidden] if len(self.head) > 1 else [])):
            std = math.sqrt(1 / layer.weight[0].numel())
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.output.weight)
        nn.init.zeros_(self.head.output.bias)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise ValueError(f"the model takes images of {self.image_size} x {self.image_size}; got {height} x {width}")
        patches = self.patch_embedding(images)  # (B, in_channels, X, X) -> (B, C, X/patch_size, X/patch_size)
        tokens = patches.flatten(2).transpose(1, 2)  # -> (B, C, N) -> (B, N, C)
        class_token = self.class_token.expand(tokens.shape[0], 1, -1)  # (C,) -> (B, 1, C)
        x = torch.cat([class_token, tokens], dim=1)  # (B, 1 + N, C)
        x = self.dropout(x + self.position_embedding)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))  # (B, 1 + N, C) -> (B, C) -> (B, num_classes)


def _imagenet(patch_size: int, dim: int, depth: int, num_heads: int) -> dict[str, Any]:
    return {"image_size": 224, "patch_size": patch_size, "dim": dim, "depth": depth, "num_heads": num_heads}


_GREY = {"image_size": 28, "in_channels": 1, "num_classes": 10}

PRESETS: dict[str, dict[str, Any]] = {
    "vit_ti_16": _imagenet(16, 192, 12, 3),
    "vit_s_16": _imagenet(16, 384, 12, 6),
    "vit_b_16": _imagenet(16, 768, 12, 12),
    "vit_b_32": _imagenet(32, 768, 12, 12),
    "vit_l_16": _imagenet(16, 1024, 24, 16),
    "vit_l_32": _imagenet(32, 1024, 24, 16),
    "vit_h_14": _imagenet(14, 1280, 32, 16),
    "small": {**_GREY, "patch_size": 4, "dim": 64, "depth": 6, "num_heads": 4},
    "tiny": {**_GREY, "patch_size": 7, "dim": 16, "depth": 2, "num_heads": 2},
}


def build(preset: str = "vit_b_16", **overrides: Any) -> ViT:
    """Return a ViT by the name of its preset; `overrides` are arguments of `ViT`."""
    return ViT(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an image that the preset takes: zeros (1, C, H, W)."""
    size = PRESETS[preset].get("image_size", 224)
    return (torch.zeros(1, PRESETS[preset].get("in_channels", 3), size, size),)
