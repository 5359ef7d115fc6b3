"""CLIP: images and texts in one space.

"Learning Transferable Visual Models From Natural Language Supervision", Alec Radford and eleven others, 2021,
https://arxiv.org/abs/2103.00020, sections 2.3 to 2.5 and figure 3.

One network reads images, another one texts; each ends in a linear layer to a common space, where what belongs together is to
have a large cosine. A classifier for any classes is then a list of their names.

"vit_b_32" and "vit_b_16" are the paper's networks with vision transformers, section 2.4 and table 20. "small" is ours for a
CPU: a small residual network for 32 x 32 pixels, and a text tower that adds up embeddings of pieces of words, which learns from
few texts. "tiny" is for tests. With `siglip` the scores have a bias, as the loss of Zhai et al. 2023 needs it
(https://arxiv.org/abs/2303.15343).

Deviations: none of the transformers. The paper's byte-pair vocabulary is not here, see tokens.py. Its ResNets with attention
pooling are not here.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import fused_attention, sequential

# B batch, T tokens, C width of a tower, H heads, D width of a head, X side of an image, N patches, E width of the common space

MAX_SCALE = 100.0  # of the cosines, section 2.5


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x), as in the authors' code: close to GELU, and what the pretrained weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class SelfAttention(nn.Module):
    """Each token attends to all tokens, or, if `causal`, to those up to its own place. (B, T, C) -> (B, T, C)."""

    def __init__(self, dim: int, num_heads: int, causal: bool) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}")
        self.num_heads, self.causal = num_heads, causal
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, T)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)
            for layer in (self.query, self.key, self.value)
        )
        y = fused_attention(query, key, value, causal=self.causal, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


class Block(nn.Module):
    """A block of either transformer, with norms before attention and feed-forward. (B, T, C) -> (B, T, C)."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, causal: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, num_heads, causal)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = sequential(fc1=nn.Linear(dim, hidden_dim), act=QuickGELU(), fc2=nn.Linear(hidden_dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


def init_blocks(blocks: nn.ModuleList, dim: int) -> None:
    """Draw weights as the authors' code: normal, std 1 / sqrt(C), / sqrt(2 depth) where a sum is written to; biases are 0."""
    for block in blocks:
        attention, residual = block.attention, 1 / math.sqrt(2 * len(blocks) * dim)
        for layer in (attention.query, attention.key, attention.value):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(dim))
        nn.init.normal_(block.feed_forward.fc1.weight, std=1 / math.sqrt(2 * dim))
        for layer in (attention.output, block.feed_forward.fc2):
            nn.init.normal_(layer.weight, std=residual)
        for layer in (attention.query, attention.key, attention.value, attention.output, *block.feed_forward.children()):
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)


class ImageTransformer(nn.Module):
    """A vision transformer with one more norm before its blocks (section 2.4). (B, 3, X, X) -> (B, C).

    Raises `ValueError` for patches that do not divide the image, and in `forward` for images of another size.
    """

    def __init__(
        self, image_size: int, patch_size: int, dim: int, depth: int, num_heads: int, hidden_dim: int | None = None
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patches of {patch_size} pixels do not divide an image of {image_size}")
        self.image_size, self.dim = image_size, dim
        self.patch_embedding = nn.Conv2d(3, dim, patch_size, stride=patch_size, bias=False)
        self.class_token = nn.Parameter(torch.randn(dim) / math.sqrt(dim))
        self.position_embedding = nn.Parameter(torch.randn(1 + (image_size // patch_size) ** 2, dim) / math.sqrt(dim))
        self.norm1 = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(Block(dim, num_heads, hidden_dim or 4 * dim, causal=False) for _ in range(depth))
        self.norm2 = nn.LayerNorm(dim)
        init_blocks(self.blocks, dim)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise ValueError(f"the model takes images of {self.image_size} x {self.image_size}; got {height} x {width}")
        patches = self.patch_embedding(images).flatten(2).transpose(1, 2)  # (B, 3, X, X) -> (B, C, N) -> (B, N, C)
        class_token = self.class_token.expand(len(patches), 1, -1)
        x = self.norm1(torch.cat([class_token, patches], dim=1) + self.position_embedding)  # (B, 1 + N, C)
        for block in self.blocks:
            x = block(x)
        return self.norm2(x[:, 0])


class TextTransformer(nn.Module):
    """A causal transformer, read where a text ends: the output at the first `eos_id`. Tokens (B, T) -> (B, C).

    What stands after the end, padding, has no influence, since no token sees what comes after it. T is at most `max_length`.
    """

    def __init__(
        self,
        vocab_size: int,
        max_length: int,
        eos_id: int,
        dim: int,
        depth: int,
        num_heads: int,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.eos_id, self.dim = eos_id, dim
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Parameter(0.01 * torch.randn(max_length, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, hidden_dim or 4 * dim, causal=True) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        init_blocks(self.blocks, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token_embedding(tokens) + self.position_embedding[: tokens.shape[1]]  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x)
        end = (tokens == self.eos_id).int().argmax(1)  # (B,) the first one
        return self.norm(x[torch.arange(len(x), device=x.device), end])


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2015); a stride halves the map. (B, in, H, W) -> (B, out, ...)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = sequential()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = sequential(conv=nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.add_module("norm", nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ImageCNN(nn.Module):
    """A small residual network: a stem of stride 2, then a block for each of `widths`, all but the first of stride 2.

    (B, 3, X, X) -> (B, C), C the last width.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.dim = widths[-1]
        self.stem = sequential(conv=nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), norm=nn.BatchNorm2d(widths[0]), act=nn.ReLU())
        self.blocks = nn.ModuleList(
            ResidualBlock(before, width, 1 + (i > 0)) for i, (before, width) in enumerate(zip((widths[0], *widths), widths))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class TextBag(nn.Module):
    """The mean of the embeddings of a text's pieces, through one hidden layer: pieces (B, T), 0 = none -> (B, C).

    In training each piece is left out with the probability `dropout`, so that no text is known by a single one.
    """

    def __init__(self, vocab_size: int, dim: int, hidden_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.dropout = hidden_dim, dropout
        self.embedding = nn.EmbeddingBag(vocab_size, dim, mode="mean", padding_idx=0)
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Linear(dim, hidden_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.training and self.dropout:
            tokens = tokens.masked_fill(torch.rand(tokens.shape, device=tokens.device) < self.dropout, 0)
        return F.gelu(self.hidden(self.norm(self.embedding(tokens))))


class Embedded(NamedTuple):
    """Images and texts in the common space, and how cosines become scores: scale * image @ text.T + bias."""

    image: Tensor  # (B, E) of length 1
    text: Tensor  # (B, E) of length 1
    scale: Tensor  # (1,)
    bias: Tensor | None  # (1,); without SigLIP there is none

    def logits(self) -> Tensor:
        """Return the score of each image with each text, (B, B)."""
        scores = self.scale * self.image @ self.text.T
        return scores if self.bias is None else scores + self.bias


class CLIP(nn.Module):
    """forward: images (B, 3, X, X), tokens (B, T) -> `Embedded`, B pairs in a common space of width `embed_dim`.

    Args:
        image, text: the towers, each (B, ...) -> (B, dim).
        siglip: scores have a bias, and begin at 10 cos - 10; else at cos / 0.07.
    """

    def __init__(self, image: nn.Module, text: nn.Module, embed_dim: int, siglip: bool = False) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.image_projection = nn.Linear(image.dim, embed_dim, bias=False)
        self.text_projection = nn.Linear(text.dim, embed_dim, bias=False)
        for layer in (self.image_projection, self.text_projection):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        self.log_scale = nn.Parameter(torch.tensor([math.log(10.0 if siglip else 1 / 0.07)]))  # (1,), as FSDP needs it
        self.bias = nn.Parameter(torch.tensor([-10.0])) if siglip else None

    def encode_images(self, images: Tensor) -> Tensor:
        """Return images (B, 3, X, X) in the common space, (B, E) of length 1."""
        return F.normalize(self.image_projection(self.image(images)), dim=-1)

    def encode_texts(self, tokens: Tensor) -> Tensor:
        """Return texts, tokens (B, T), in the common space, (B, E) of length 1."""
        return F.normalize(self.text_projection(self.text(tokens)), dim=-1)

    def forward(self, images: Tensor, tokens: Tensor) -> Embedded:
        return Embedded(self.encode_images(images), self.encode_texts(tokens), self.log_scale.exp(), self.bias)

    @torch.no_grad()
    def clip_scale(self) -> None:
        """Keep the scale at 100 or below: after each step, section 2.5."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))


_BPE = {"vocab_size": 49_408, "max_length": 77, "eos_id": 49_407}
_BYTES = {"vocab_size": 258, "max_length": 77, "eos_id": 257}
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "image": {"widths": (32, 64, 128, 256)},
        "text": {"vocab_size": 2**14, "dim": 256, "hidden_dim": 512, "dropout": 0.3},
        "embed_dim": 128,
    },
    "vit_b_32": {
        "image": {"image_size": 224, "patch_size": 32, "dim": 768, "depth": 12, "num_heads": 12},
        "text": {**_BPE, "dim": 512, "depth": 12, "num_heads": 8},
        "embed_dim": 512,
    },
    "vit_b_16": {
        "image": {"image_size": 224, "patch_size": 16, "dim": 768, "depth": 12, "num_heads": 12},
        "text": {**_BPE, "dim": 512, "depth": 12, "num_heads": 8},
        "embed_dim": 512,
    },
    "vit_small": {
        "image": {"image_size": 32, "patch_size": 4, "dim": 96, "depth": 4, "num_heads": 4},
        "text": {**_BYTES, "dim": 96, "depth": 3, "num_heads": 4},
        "embed_dim": 128,
    },
    "tiny": {
        "image": {"image_size": 16, "patch_size": 4, "dim": 16, "depth": 2, "num_heads": 2},
        "text": {**_BYTES, "dim": 16, "depth": 2, "num_heads": 2},
        "embed_dim": 8,
    },
    "tiny_cnn": {"image": {"widths": (8, 16)}, "text": {"vocab_size": 512, "dim": 16, "hidden_dim": 16}, "embed_dim": 8},
}


def build(preset: str = "small", **overrides: Any) -> CLIP:
    """Return a CLIP by the name of its preset; `overrides` replace its entries, and may set `siglip`.

    The arguments of the towers choose these: `widths` make a CNN, `depth` a transformer, no `depth` a bag of pieces.
    """
    options = {**PRESETS[preset], **overrides}
    image, text = options.pop("image"), options.pop("text")
    image_tower = ImageCNN(**image) if "widths" in image else ImageTransformer(**image)
    text_tower = TextTransformer(**text) if "depth" in text else TextBag(**text)
    return CLIP(image_tower, text_tower, **options)


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return an image that the preset takes, zeros (1, 3, X, X), and a text, (1, T)."""
    size = PRESETS[preset]["image"].get("image_size", 32)
    return torch.zeros(1, 3, size, size), torch.tensor([[1, PRESETS[preset]["text"].get("eos_id", 2)]])
