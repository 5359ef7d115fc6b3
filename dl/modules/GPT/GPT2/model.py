"""GPT-2.

"Language Models are Unsupervised Multitask Learners", Alec Radford, Jeffrey Wu, Rewon Child, David Luan, Dario Amodei & Ilya
Sutskever, 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf: a
decoder-only transformer with its norms before the layers, in the four published sizes (table 2; its counts of parameters
are corrected by those of https://github.com/openai/gpt-2). "char" and "char_gpu" are the two networks for characters of
Shakespeare of https://github.com/karpathy/nanoGPT, without biases and with the exact GELU; "small" is ours, for word pieces
of WikiText-2; "tiny" is for tests.

Deviations: none of architecture. What the paper leaves open (std of the initial weights, GELU by tanh) follows its code.
"""

import math
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import KeyValueCache, fused_attention, sequential

# B batch, T tokens, S tokens with those in the cache, C width, H heads, D width of a head, V vocabulary


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and to those before it, in H heads of width D = C / H.

    Raises `ValueError` for a width that does not divide into heads.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float, bias: bool) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key = nn.Linear(dim, dim, bias=bias)
        self.value = nn.Linear(dim, dim, bias=bias)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, S)
        self.dropout = nn.Dropout(dropout)  # of the attention weights
        self.output = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, S) -> (B, T, C). With a cache, x continues the S - T positions in it."""
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)
            for layer in (self.query, self.key, self.value)
        )
        if cache is not None:
            key, value = cache.append(key, value)  # (B, H, T, D) -> (B, H, S, D)
        y = fused_attention(query, key, value, padding_mask, causal=True, dropout=self.dropout, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


class Block(nn.Module):
    """Section 2.3: attention and feed-forward, each with its norm before it and a shortcut around both."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        attention_dropout: float,
        activation: Callable[[], nn.Module],
        norm_eps: float,
        bias: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, norm_eps, bias=bias)
        self.attention = CausalSelfAttention(dim, num_heads, attention_dropout, bias)
        self.norm2 = nn.LayerNorm(dim, norm_eps, bias=bias)
        self.feed_forward = sequential(
            fc1=nn.Linear(dim, hidden_dim, bias=bias),
            act=activation(),
            fc2=nn.Linear(hidden_dim, dim, bias=bias),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, S) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.norm1(x), padding_mask, cache))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class GPT2(nn.Module):
    """Section 2.3: embeddings of token and position, pre-norm blocks, a last norm, logits by the token embeddings.

    Args:
        max_length: positions that there are embeddings for, the most tokens in a context.
        hidden_dim: width inside the feed-forward of each block; default 4 dim.
        dropout: of the embeddings and of the output of every layer.
        attention_dropout: of the attention weights; default as `dropout`.
        bias: of the linear layers and norms; GPT-2 has them.

    Raises `ValueError` for a dim that does not divide into heads.
    """

    RENAMED = (  # names of earlier versions as regular expressions, and today's
        (r"\.attention\.norm\.", ".norm1."),
        (r"\.attention\.layer\.", ".attention."),
        (r"\.feed_forward\.norm\.", ".norm2."),
        (r"\.feed_forward\.layer\.", ".feed_forward."),
    )

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        vocab_size: int = 50257,
        max_length: int = 1024,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation: Callable[[], nn.Module] = partial(nn.GELU, approximate="tanh"),
        norm_eps: float = 1e-5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.dropout = nn.Dropout(dropout)
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, hidden_dim or 4 * dim, dropout, attention_dropout, activation, norm_eps, bias)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, norm_eps, bias=bias)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as the paper's code does (https://github.com/openai/gpt-2, src/model.py), scaled as in section 2.3.

        - token embedding, linear layers: normal, std 0.02
        - the last linear layer of each residual branch: std 0.02 / sqrt(branches), of which there are two a block
        - position embedding: normal, std 0.01
        - biases: 0
        """
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)
        for block in self.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            for layer in (
                attention.query,
                attention.key,
                attention.value,
                attention.output,
                feed_forward.fc1,
                feed_forward.fc2,
            ):
                last = layer in (attention.output, feed_forward.fc2)
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * len(self.blocks)) if last else 0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def new_cache(self) -> list[KeyValueCache]:
        """Return an empty cache for `forward` to fill, with room for `max_length` tokens."""
        return [KeyValueCache(self.max_length) for _ in self.blocks]

    def forward(
        self,
        tokens: Tensor,
        padding_mask: Tensor | None = None,
        cache: list[KeyValueCache] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """tokens (B, T) -> logits (B, T, V), those at t for token t + 1.

        Args:
            padding_mask: bool (B, T), True where a token is padding, on either side: nothing attends to it, and
                positions count the other tokens only. With a cache (B, S), for the tokens of the calls before as well. Or
                (B, T, T), True where the second token is of another text than the first: each text has positions of its own.
            cache: a `new_cache`; tokens are then only those that follow the calls before.
            last_only: compute the logits after the last token alone, (B, 1, V).

        Raises `ValueError` for more tokens than `max_length`.
        """
        x = self.before_blocks(tokens, padding_mask, cache[0].length if cache else 0)
        for i, block in enumerate(self.blocks):
            x = block(x, padding_mask, cache[i] if cache else None)
        return self.after_blocks(x[:, -1:] if last_only else x)

    def before_blocks(self, tokens: Tensor, padding_mask: Tensor | None = None, start: int = 0) -> Tensor:
        """tokens (B, T), the first at position `start` -> (B, T, C)."""
        end = start + tokens.shape[1]
        if end > self.max_length:
            raise ValueError(f"{end} tokens are more than the {self.max_length} that the model has positions for")
        if padding_mask is None:
            positions = torch.arange(start, end, device=tokens.device)  # (T,)
        elif padding_mask.ndim == 3:
            positions = (~padding_mask).tril().sum(-1) - 1  # (B, T, T) -> (B, T)
        else:
            positions = ((~padding_mask).cumsum(1) - 1).clamp(min=0)[:, start:]  # (B, S) -> (B, T)
        return self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))  # (B, T) -> (B, T, C)

    def after_blocks(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.token_embedding.weight)  # (B, T, C) -> (B, T, V)


PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {"dim": 768, "depth": 12, "num_heads": 12},
    "gpt2-medium": {"dim": 1024, "depth": 24, "num_heads": 16},
    "gpt2-large": {"dim": 1280, "depth": 36, "num_heads": 20},
    "gpt2-xl": {"dim": 1600, "depth": 48, "num_heads": 25},
    "char": {
        **{"dim": 128, "depth": 4, "num_heads": 4, "vocab_size": 65, "max_length": 64},
        **{"dropout": 0.0, "activation": nn.GELU, "bias": False},
    },
    "char_gpu": {
        **{"dim": 384, "depth": 6, "num_heads": 6, "vocab_size": 65, "max_length": 256},
        **{"dropout": 0.2, "activation": nn.GELU, "bias": False},
    },
    "small": {"dim": 256, "depth": 4, "num_heads": 4, "vocab_size": 4000, "max_length": 128, "dropout": 0.0},
    "tiny": {"dim": 8, "depth": 2, "num_heads": 2, "vocab_size": 11, "max_length": 16, "dropout": 0.0},
}


def build(preset: str = "gpt2", **overrides: Any) -> GPT2:
    """Return a GPT-2 by the name of its preset; `overrides` are arguments of `GPT2`."""
    return GPT2(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
