"""The blocks that transformers are stacked from: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, figure 1."""

from typing import Any, Callable

from torch import Tensor, nn

from dl.mytorch.layers.attention import KeyValueCache, MultiHeadAttention
from dl.mytorch.layers.dropout import FastDropout
from dl.mytorch.layers.sequential import sequential

# B batch, T positions, S positions of the source, C width

Activation = Callable[[], nn.Module]


def feed_forward(
    dim: int, hidden_dim: int, activation: Activation = nn.GELU, dropout: float = 0.0, bias: bool = True
) -> nn.Sequential:
    """Section 3.3: two linear layers at each position, (B, T, C) -> (B, T, hidden_dim) -> (B, T, C), dropout between them."""
    return sequential(
        fc1=nn.Linear(dim, hidden_dim, bias=bias),
        act=activation(),
        dropout=FastDropout(dropout),
        fc2=nn.Linear(hidden_dim, dim, bias=bias),
    )


class Residual(nn.Module):
    """A layer (B, T, C) -> (B, T, C) with its shortcut, in one of two orders; dropout on the layer's output (section 5.4).

    norm_first False: norm(x + layer(x)), section 3.1. True: x + layer(norm(x)), which trains without warmup (Xiong et al.
    2020, https://arxiv.org/abs/2002.04745); a stack of these needs a norm behind its last block.
    """

    def __init__(self, layer: nn.Module, norm: nn.Module, dropout: float, norm_first: bool) -> None:
        super().__init__()
        self.layer = layer
        self.norm = norm
        self.dropout = FastDropout(dropout)
        self.norm_first = norm_first

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """`options` go to the layer."""
        if self.norm_first:
            return x + self.dropout(self.layer(self.norm(x), **options))
        return self.norm(x + self.dropout(self.layer(x, **options)))


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward: figure 1, left. With `causal`, the block of a decoder-only model.

    Args:
        hidden_dim: width inside the feed-forward; default 4 dim.
        norm_first: see `Residual`.
        dropout: of the output of both layers.
        attention_dropout: of the attention weights.
        hidden_dropout: inside the feed-forward.
        bias: of the linear layers and norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int | None = None,
        *,
        norm_first: bool = False,
        causal: bool = False,
        activation: Activation = nn.GELU,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        norm_eps: float = 1e-5,
        bias: bool = True,
    ) -> None:
        super().__init__()

        def residual(layer: nn.Module) -> Residual:
            return Residual(layer, nn.LayerNorm(dim, norm_eps, bias=bias), dropout, norm_first)

        self.attention = residual(MultiHeadAttention(dim, num_heads, attention_dropout, bias, causal))
        self.feed_forward = residual(feed_forward(dim, hidden_dim or 4 * dim, activation, hidden_dropout, bias))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, T, C), padding_mask (B, T), or (B, all positions) with a cache -> (B, T, C)."""
        return self.feed_forward(self.attention(x, padding_mask=padding_mask, cache=cache))


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward: figure 1, right. Arguments as `EncoderBlock`."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int | None = None,
        *,
        norm_first: bool = False,
        activation: Activation = nn.GELU,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        norm_eps: float = 1e-5,
        bias: bool = True,
    ) -> None:
        super().__init__()

        def residual(layer: nn.Module) -> Residual:
            return Residual(layer, nn.LayerNorm(dim, norm_eps, bias=bias), dropout, norm_first)

        self.self_attention = residual(MultiHeadAttention(dim, num_heads, attention_dropout, bias, causal=True))
        self.cross_attention = residual(MultiHeadAttention(dim, num_heads, attention_dropout, bias))
        self.feed_forward = residual(feed_forward(dim, hidden_dim or 4 * dim, activation, hidden_dropout, bias))

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        padding_mask: Tensor | None = None,
        memory_padding_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
        memory_cache: KeyValueCache | None = None,
    ) -> Tensor:
        """x (B, T, C), memory (B, S, C) from the encoder, their padding masks -> (B, T, C).

        `cache` holds the positions of x decoded so far, `memory_cache` the projections of memory.
        """
        x = self.self_attention(x, padding_mask=padding_mask, cache=cache)
        x = self.cross_attention(x, context=memory, padding_mask=memory_padding_mask, cache=memory_cache)
        return self.feed_forward(x)
