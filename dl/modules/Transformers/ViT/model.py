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

from dl.mytorch.layers import EncoderBlock, LearnedPositions, MultiHeadAttention, FastDropout, sequential

# B batch, C width, X side of the image, N = (X / patch_size)^2 patches


class ViT(nn.Module):
    """Patches as tokens, a class token before them, learned positions, pre-norm blocks, a linear layer on the class token.

    Args:
        image_size, patch_size: sides in pixels.
        hidden_dim: width inside the feed-forward of each block; default 4 dim.
        head_dim: width of a hidden layer with tanh in the head, which the paper has in pre-training; 0 = none.
        dropout: of the embeddings and behind every linear layer but the projections to query, key and value (appendix B.1).
        attention_dropout: of the attention weights; not in the paper.

    forward: images (B, in_channels, image_size, image_size) -> logits (B, num_classes).

    Raises `ValueError` for patches that do not divide the image, and in `forward` for images of another size.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        hidden_dim: int | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        head_dim: int = 0,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not divide an image of {image_size}")
        self.image_size = image_size
        self.grid = image_size // patch_size  # patches along a side
        self.patch_embedding = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(torch.zeros(dim))
        self.positions = LearnedPositions(1 + self.grid**2, dim)
        self.dropout = FastDropout(dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                dim,
                num_heads,
                hidden_dim,
                norm_first=True,
                dropout=dropout,
                attention_dropout=attention_dropout,
                hidden_dropout=dropout,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.head = sequential()
        if head_dim:
            self.head = sequential(hidden=nn.Linear(dim, head_dim), act=nn.Tanh())
        self.head.add_module("output", nn.Linear(head_dim or dim, num_classes))
        self.init_weights()

    def init_weights(self) -> None:
        """As the paper's code, https://github.com/google-research/vision_transformer (models_vit.py).

        Attention: Xavier uniform, biases 0. Feed-forward: Xavier uniform, biases normal with deviation 1e-6. Patches and
        hidden layer of the head: normal with variance 1 / fan-in (cut off at two deviations), biases 0. Output: 0
        (section 3.2). Class token 0, positions normal with deviation 0.02, norms scale 1 and shift 0.
        """
        for block in self.blocks:
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.normal_(layer.bias, std=1e-6)
                elif isinstance(layer, MultiHeadAttention):
                    attention = layer
            for layer in (attention.query, attention.key, attention.value, attention.output):
                nn.init.zeros_(layer.bias)
        for layer in (self.patch_embedding, *self.head[:-1:2]):
            deviation = math.sqrt(1 / layer.weight[0].numel())
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.output.weight)
        nn.init.zeros_(self.head.output.bias)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise ValueError(f"the model takes images of {self.image_size} x {self.image_size}; got {height} x {width}")
        patches = self.patch_embedding(images)  # (B, in_channels, X, X) -> (B, C, X/patch_size, X/patch_size)
        tokens = patches.flatten(2).transpose(1, 2)  # -> (B, C, N) -> (B, N, C)
        class_token = self.class_token.expand(len(tokens), 1, -1)  # (C,) -> (B, 1, C)
        x = torch.cat([class_token, tokens], dim=1)  # (B, 1 + N, C)
        x = self.dropout(self.positions(x))
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
    """A ViT by the name of its preset; `overrides` are arguments of `ViT`."""
    return ViT(**{**PRESETS[preset], **overrides})
