"""Transformer.

"Attention Is All You Need", Ashish Vaswani, Noam Shazeer, Niki Parmar, Jakob Uszkoreit, Llion Jones, Aidan N. Gomez,
Lukasz Kaiser & Illia Polosukhin, 2017, https://arxiv.org/abs/1706.03762: encoder and decoder of figure 1, in the sizes of
table 3 ("base", "big"), with a vocabulary of 37,000 that both languages share. "d2l" has the sizes of the d2l book (first
edition, section 10.7); "small", "medium" and "tiny" are ours: for short sentences and for captions on a CPU, and for
tests. With `norm_first`, the norms stand before the layers, as later work has them.

Deviations: none of architecture. What the paper leaves open (initialisation, no bias of the output layer) follows its
code, https://github.com/tensorflow/tensor2tensor; the linear layers of attention have biases, which they lack there.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import KeyValueCache, fused_attention, sequential

# B batch, S source tokens, T target tokens, C width, H heads, D width of a head, V vocabulary


class SinusoidalPositions(nn.Module):
    """Section 3.5: PE(t, 2i) = sin(t / 10000^(2i/C)), PE(t, 2i+1) = cos(the same), added to the embeddings.

    Raises `ValueError` for an odd width: sines and cosines come in pairs.
    """

    table: Tensor

    def __init__(self, max_length: int, dim: int) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"sinusoidal positions come in pairs, so dim has to be even; got {dim}")
        frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (C/2,)
        angle = torch.arange(max_length, dtype=torch.float64)[:, None] * frequency  # (max_length, C/2)
        table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (max_length, C/2, 2) -> (max_length, C)
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x (B, T, C), the first at position `start` -> (B, T, C). Raises `ValueError` for more than `max_length`."""
        end = start + x.shape[1]
        if end > len(self.table):
            raise ValueError(f"{end} positions are asked for, the model has {len(self.table)}")
        return x + self.table[start:end]


class MultiHeadAttention(nn.Module):
    """Section 3.2.2: softmax(Q K^T / sqrt(D)) V in H heads of width D = C / H, joined and projected.

    Raises `ValueError` for a width that does not divide into heads.
    """

    def __init__(self, dim: int, num_heads: int, causal: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}")
        self.num_heads = num_heads
        self.causal = causal  # position t sees those up to t: the mask of the decoder's self-attention
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, S)
        self.output = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,  # (B, T, C), of which the queries are made
        context: Tensor | None = None,  # (B, S, C), of which keys and values are made in cross-attention; else of x
        padding_mask: Tensor | None = None,  # bool (B, S), True where a key is padding: it gets no weight
        cache: KeyValueCache | None = None,  # of the calls before: x follows on them, or context is what it was
    ) -> Tensor:
        """(B, T, C) -> (B, T, C). A query that may see no key gives the output's bias, not NaN."""
        query = self.heads(self.query(x))
        if context is not None and cache is not None and cache.length:
            key, value = cache.contents()
        else:
            source = x if context is None else context
            key, value = self.heads(self.key(source)), self.heads(self.value(source))
            if cache is not None:
                key, value = cache.append(key, value)  # (B, H, T, D) -> (B, H, S, D)
        y = fused_attention(query, key, value, padding_mask, self.causal, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)


def feed_forward(dim: int, hidden_dim: int) -> nn.Sequential:
    """Section 3.3, equation 2, at each position: (B, T, C) -> (B, T, hidden_dim) -> (B, T, C)."""
    return sequential(fc1=nn.Linear(dim, hidden_dim), act=nn.ReLU(), fc2=nn.Linear(hidden_dim, dim))


class EncoderBlock(nn.Module):
    """Figure 1, left: self-attention and feed-forward, around each a shortcut and after it a norm (section 3.1).

    With `norm_first` the norm is before the layer, inside the shortcut.
    """

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = MultiHeadAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim, hidden_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)  # of the output of each layer (section 5.4)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """x (B, S, C), padding_mask bool (B, S) -> (B, S, C)."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), padding_mask=padding_mask))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, padding_mask=padding_mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class DecoderBlock(nn.Module):
    """Figure 1, right: causal self-attention, attention to the encoder's output, feed-forward; else as `EncoderBlock`."""

    def __init__(self, dim: int, num_heads: int, hidden_dim: int, dropout: float = 0.0, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.self_attention = MultiHeadAttention(dim, num_heads, causal=True)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = feed_forward(dim, hidden_dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)  # of the output of each layer (section 5.4)

    def forward(
        self,
        x: Tensor,  # (B, T, C)
        memory: Tensor,  # (B, S, C), the encoder's output
        memory_padding_mask: Tensor | None = None,  # bool (B, S)
        cache: KeyValueCache | None = None,  # the target positions decoded so far
        memory_cache: KeyValueCache | None = None,  # keys and values of memory
    ) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        if self.norm_first:
            x = x + self.dropout(self.self_attention(self.norm1(x), cache=cache))
            x = x + self.dropout(self.cross_attention(self.norm2(x), memory, memory_padding_mask, memory_cache))
            return x + self.dropout(self.feed_forward(self.norm3(x)))
        x = self.norm1(x + self.dropout(self.self_attention(x, cache=cache)))
        x = self.norm2(x + self.dropout(self.cross_attention(x, memory, memory_padding_mask, memory_cache)))
        return self.norm3(x + self.dropout(self.feed_forward(x)))


class Cache(list[tuple[KeyValueCache, KeyValueCache]]):
    """Of each decoder block: the target positions so far, and the source's."""

    def select(self, rows: Tensor) -> None:
        """Keep these hypotheses; the source is the same for all of a sentence."""
        for own, _ in self:
            own.select(rows)


class Transformer(nn.Module):
    """Figure 1: the source is encoded; the target, token by token, looks back at itself and at the encoded source.

    forward: source (B, S), target (B, T), source_padding_mask (B, S), True where a token is padding -> logits (B, T, V),
    those at t for the target's token t + 1. Padding at the end of the target needs no mask: nothing before it sees it.

    Raises `ValueError` for a dim that does not divide into heads or is odd, and in `forward` for a longer sentence than
    `max_length`.
    """

    RENAMED = (  # names of earlier versions as regular expressions, and today's
        (r"attention\.layer\.", "attention."),
        (r"\.(self_)?attention\.norm\.", ".norm1."),
        (r"\.cross_attention\.norm\.", ".norm2."),
        (r"^encoder\.(\d+)\.feed_forward\.norm\.", r"encoder.\1.norm2."),
        (r"^decoder\.(\d+)\.feed_forward\.norm\.", r"decoder.\1.norm3."),
        (r"\.feed_forward\.layer\.", ".feed_forward."),
    )

    def __init__(
        self,
        vocabulary_size: int,  # V; one matrix embeds source and target and gives the logits (section 3.4)
        dim: int,  # C
        depth: int,  # blocks of the encoder, and as many of the decoder
        num_heads: int,  # H
        hidden_dim: int | None = None,  # width inside the feed-forward; default 4 dim
        dropout: float = 0.1,  # of the embeddings with their positions and of the output of each layer (section 5.4)
        max_length: int = 512,  # most tokens of a source or target
        norm_first: bool = False,  # see `EncoderBlock`; a norm then also ends the encoder and the decoder
        source_vocabulary_size: int | None = None,  # of a separate source vocabulary, with its own embeddings
    ) -> None:
        super().__init__()
        self.dim = dim
        self.max_length = max_length
        self.embedding = nn.Embedding(vocabulary_size, dim)
        self.source_embedding = nn.Embedding(source_vocabulary_size, dim) if source_vocabulary_size else None
        self.positions = SinusoidalPositions(max_length, dim)
        self.dropout = nn.Dropout(dropout)
        sizes = (dim, num_heads, hidden_dim or 4 * dim, dropout, norm_first)
        self.encoder = nn.ModuleList(EncoderBlock(*sizes) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(dim) if norm_first else nn.Identity()
        self.decoder = nn.ModuleList(DecoderBlock(*sizes) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(dim) if norm_first else nn.Identity()
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as the paper's code does: https://github.com/tensorflow/tensor2tensor.

        - all linear layers: Xavier uniform, biases 0
        - embedding, source embedding: normal, std 1 / sqrt(dim). Times sqrt(dim) they have std 1, positions about 0.7, and
          the first logits about 1
        - norms: scale 1, shift 0
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.embedding.weight, std=self.dim**-0.5)
        if self.source_embedding is not None:
            nn.init.normal_(self.source_embedding.weight, std=self.dim**-0.5)

    def forward(self, source: Tensor, target: Tensor, source_padding_mask: Tensor | None = None) -> Tensor:
        return self.decode(target, self.encode(source, source_padding_mask), source_padding_mask)

    def encode(self, source: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """source (B, S), padding_mask (B, S) -> memory (B, S, C)."""
        x = self._embed(source, self.source_embedding or self.embedding)
        for block in self.encoder:
            x = block(x, padding_mask)
        return self.encoder_norm(x)

    def decode(
        self, target: Tensor, memory: Tensor, memory_padding_mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """target (B, T), memory (B, S, C) of `encode`, memory_padding_mask (B, S) -> logits (B, T, V).

        With a `new_cache`, target holds only the tokens that follow those of the calls before.
        """
        x = self._embed(target, self.embedding, start=cache[0][0].length if cache else 0)
        for i, block in enumerate(self.decoder):
            own, source = cache[i] if cache else (None, None)
            x = block(x, memory, memory_padding_mask=memory_padding_mask, cache=own, memory_cache=source)
        return F.linear(self.decoder_norm(x), self.embedding.weight)  # (B, T, C) -> (B, T, V)

    def new_cache(self, source_length: int, target_length: int) -> Cache:
        """Return an empty cache for `decode` to fill, for targets of up to `target_length` tokens."""
        return Cache((KeyValueCache(target_length), KeyValueCache(source_length)) for _ in self.decoder)

    def _embed(self, tokens: Tensor, embedding: nn.Embedding, start: int = 0) -> Tensor:
        x = embedding(tokens) * math.sqrt(self.dim)  # section 3.4; (B, T) -> (B, T, C)
        return self.dropout(self.positions(x, start))


PRESETS: dict[str, dict[str, Any]] = {
    "base": {"vocabulary_size": 37_000, "dim": 512, "depth": 6, "num_heads": 8, "hidden_dim": 2048, "dropout": 0.1},
    "big": {"vocabulary_size": 37_000, "dim": 1024, "depth": 6, "num_heads": 16, "hidden_dim": 4096, "dropout": 0.3},
    "small": {"vocabulary_size": 10_000, "dim": 128, "depth": 2, "num_heads": 4, "hidden_dim": 512, "dropout": 0.1},
    "medium": {"vocabulary_size": 10_000, "dim": 256, "depth": 3, "num_heads": 8, "hidden_dim": 512, "dropout": 0.1},
    "d2l": {"vocabulary_size": 10_000, "dim": 32, "depth": 2, "num_heads": 4, "hidden_dim": 64, "dropout": 0.1},
    "tiny": {"vocabulary_size": 16, "dim": 8, "depth": 2, "num_heads": 2, "hidden_dim": 12, "dropout": 0.0},
}


def build(preset: str = "base", **overrides: Any) -> Transformer:
    """Return a Transformer by the name of its preset; `overrides` are arguments of `Transformer`."""
    return Transformer(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return a source and a target of 16 tokens each, zeros (1, T)."""
    return torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, 16, dtype=torch.int64)
