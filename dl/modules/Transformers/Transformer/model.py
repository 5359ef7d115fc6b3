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

from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import DecoderBlock, EncoderBlock, KeyValueCache, FastDropout, SinusoidalPositions

# B batch, S source tokens, T target tokens, C width, V vocabulary


class Cache(list[tuple[KeyValueCache, KeyValueCache]]):
    """Of each decoder block: the target positions so far, and the source's."""

    def select(self, rows: Tensor) -> None:
        """Go on with these hypotheses; the source is the same for all of a sentence."""
        for own, _ in self:
            own.select(rows)


class Transformer(nn.Module):
    """Figure 1: the source is encoded; the target, token by token, looks back at itself and at the encoded source.

    Args:
        vocabulary_size: of the one vocabulary; one matrix embeds source and target and gives the logits (section 3.4).
        depth: blocks of the encoder, and as many of the decoder.
        hidden_dim: width inside the feed-forward; default 4 dim.
        dropout: of the embeddings with their positions and of the output of each layer (section 5.4).
        max_length: most tokens of a source or target.
        norm_first: see `Residual`; a norm then also ends the encoder and the decoder.
        source_vocabulary_size: of the source's vocabulary, where it has its own, embedded by a matrix of its own.

    forward: source (B, S), target (B, T), source_padding_mask (B, S), True where a token is padding -> logits (B, T, V),
    those at t for the target's token t + 1. Padding at the end of the target needs no mask: nothing before it sees it.

    Raises `ValueError` for a dim that does not divide into heads or is odd, and in `forward` for a longer sentence than
    `max_length`.
    """

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        depth: int,
        num_heads: int,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        max_length: int = 512,
        norm_first: bool = False,
        source_vocabulary_size: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.max_length = max_length
        self.embedding = nn.Embedding(vocabulary_size, dim)
        self.source_embedding = nn.Embedding(source_vocabulary_size, dim) if source_vocabulary_size else None
        self.positions = SinusoidalPositions(max_length, dim)
        self.dropout = FastDropout(dropout)
        options = {"norm_first": norm_first, "activation": nn.ReLU, "dropout": dropout}
        self.encoder = nn.ModuleList(EncoderBlock(dim, num_heads, hidden_dim, **options) for _ in range(depth))
        self.encoder_norm = nn.LayerNorm(dim) if norm_first else nn.Identity()
        self.decoder = nn.ModuleList(DecoderBlock(dim, num_heads, hidden_dim, **options) for _ in range(depth))
        self.decoder_norm = nn.LayerNorm(dim) if norm_first else nn.Identity()
        self.init_weights()

    def init_weights(self) -> None:
        """As tensor2tensor: embedding normal with deviation dim^-0.5, linear layers Xavier uniform with biases 0.

        Times sqrt(dim), embeddings have deviation 1, and positions about 0.7; logits begin with one of about 1.
        """
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for embedding in filter(None, (self.embedding, self.source_embedding)):
            nn.init.normal_(embedding.weight, std=self.dim**-0.5)

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
        """Empty, for `decode` to fill, for targets of up to `target_length` tokens."""
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
    """A Transformer by the name of its preset; `overrides` are arguments of `Transformer`."""
    return Transformer(**{**PRESETS[preset], **overrides})
