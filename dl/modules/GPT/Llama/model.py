"""Llama.

"LLaMA: Open and Efficient Foundation Language Models", Hugo Touvron, Thibaut Lavril, Gautier Izacard, Xavier Martinet,
Marie-Anne Lachaux, Timothee Lacroix, Baptiste Roziere, Naman Goyal, Eric Hambro, Faisal Azhar, Aurelien Rodriguez, Armand
Joulin, Edouard Grave & Guillaume Lample, 2023, https://arxiv.org/abs/2302.13971: a decoder-only transformer with RMSNorm,
rotary positions and SwiGLU, in the sizes of table 2. "llama2_70b" (https://arxiv.org/abs/2307.09288) and "llama3_8b"
(https://arxiv.org/abs/2407.21783) share heads of keys and values among heads of queries. "stories260k" is the smallest of
https://huggingface.co/karpathy/tinyllamas; "char" is ours, for characters of Shakespeare; "tiny" is for tests. With
`num_experts` each feed-forward is a mixture of experts, as in Mixtral (https://arxiv.org/abs/2401.04088).

Deviations:
- The paper does not say how weights begin; here they begin as in GPT-2.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import KeyValueCache, RotaryPositions, fused_attention

# B batch, T tokens, S tokens with those in the cache, C width, H heads, G heads of keys and values, D width of a head,
# V vocabulary; N = B T, E experts, K of them for a token


class SwiGLU(nn.Module):
    """The feed-forward (silu(x W) * x V) W2: Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6.

    forward: (B, T, C) -> (B, T, C).
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.up = nn.Linear(dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # (B, T, C) -> (B, T, hidden_dim) -> (B, T, C)


class MixtureOfExperts(nn.Module):
    """E feed-forwards, of which each token passes through the K that a router finds likeliest for it.

    Their outputs are weighted by the router's probabilities, which for K > 1 are made to sum up to 1 (Jiang et al. 2024,
    https://arxiv.org/abs/2401.04088, section 2.1), for K = 1 are as they are (Fedus et al. 2021,
    https://arxiv.org/abs/2101.03961, equation 2): else the router would learn nothing. No token is dropped.

    forward: (B, T, C) -> (B, T, C). Afterwards `balance` is the load-balancing loss of Fedus et al., equations 4 to 6: E times
    the sum over experts of the share of tokens and the mean probability; 1 when all are used equally. How many tokens an
    expert gets has to be read from the device.

    Raises `ValueError` for more experts a token than there are.
    """

    balance: Tensor

    def __init__(self, dim: int, hidden_dim: int, num_experts: int, experts_per_token: int) -> None:
        super().__init__()
        if not 1 <= experts_per_token <= num_experts:
            raise ValueError(f"a token passes through 1 to {num_experts} experts; got experts_per_token {experts_per_token}")
        self.experts_per_token = experts_per_token
        self.router = nn.Linear(dim, num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(dim, hidden_dim) for _ in range(num_experts))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (B, T, C) -> (N, C)
        precision = torch.promote_types(tokens.dtype, torch.float32)  # Fedus et al., section 2.4
        probabilities = self.router(tokens).softmax(-1, dtype=precision)  # (N, E)
        weights, chosen = probabilities.topk(self.experts_per_token)  # (N, K)
        shares = F.one_hot(chosen, len(self.experts)).to(precision).mean((0, 1))  # (E,)
        self.balance = len(self.experts) * (shares * probabilities.mean(0)).sum()
        if self.experts_per_token > 1:
            weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(tokens)
        for i, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == i)
            y = y.index_add(0, rows, (weights[rows, places, None] * expert(tokens[rows])).to(y.dtype))
        return y.view_as(x)  # (N, C) -> (B, T, C)


class Attention(nn.Module):
    """Causal self-attention with rotary positions. H heads of queries share G heads of keys and values.

    Grouped queries: Ainslie et al. 2023, https://arxiv.org/abs/2305.13245. With G = H it is ordinary multi-head attention.

    Raises `ValueError` for a width that does not divide into heads, or heads that do not divide into groups.
    """

    def __init__(self, dim: int, num_heads: int, num_kv_heads: int, dropout: float, rotary: RotaryPositions) -> None:
        super().__init__()
        if dim % num_heads or num_heads % num_kv_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}, and these into num_kv_heads {num_kv_heads}")
        self.head_dim = dim // num_heads
        self.rotary = rotary
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, num_kv_heads * self.head_dim, bias=False)
        self.value = nn.Linear(dim, num_kv_heads * self.head_dim, bias=False)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, S)
        self.dropout = nn.Dropout(dropout)  # of the attention weights
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, S) -> (B, T, C). With a cache, x continues the S - T positions in it."""
        query, key, value = (
            layer(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H D) -> (B, T, H, D) -> (B, H, T, D), or G
            for layer in (self.query, self.key, self.value)
        )
        start = cache.length if cache else 0
        query, key = self.rotary(query, start), self.rotary(key, start)
        if cache is not None:
            key, value = cache.append(key, value)  # (B, G, T, D) -> (B, G, S, D)
        y = fused_attention(query, key, value, padding_mask, causal=True, dropout=self.dropout, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


class Block(nn.Module):
    """Section 2.2: attention and feed-forward, each with an RMSNorm before it and a shortcut around both."""

    def __init__(self, dim: int, attention: Attention, feed_forward: nn.Module, dropout: float, norm_eps: float) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(dim, norm_eps)
        self.attention = attention
        self.norm2 = nn.RMSNorm(dim, norm_eps)
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, S) -> (B, T, C)."""
        x = x + self.dropout(self.attention(self.norm1(x), padding_mask, cache))
        return x + self.dropout(self.feed_forward(self.norm2(x)))


class Llama(nn.Module):
    """Section 2: token embeddings, blocks, a last RMSNorm, logits.

    Args:
        hidden_dim: width inside the feed-forward; default 8/3 dim, rounded up to a multiple of 256, as in the paper's code.
        num_kv_heads: heads of keys and values; default num_heads.
        max_length: the most tokens in a context.
        rotary_base: see `RotaryPositions`.
        tied: the output layer has the matrix of the token embeddings.
        dropout: of attention weights and of the output of every layer; the paper has none.
        num_experts: above 0, each feed-forward is a `MixtureOfExperts`, of which each has `hidden_dim`.

    Raises `ValueError` for a dim that does not divide into heads, or into heads of odd width, heads that do not divide
    into groups, or more experts a token than there are.
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
        num_kv_heads: int | None = None,
        hidden_dim: int | None = None,
        vocab_size: int = 32000,
        max_length: int = 2048,
        rotary_base: float = 10000.0,
        norm_eps: float = 1e-6,
        tied: bool = False,
        dropout: float = 0.0,
        num_experts: int = 0,
        experts_per_token: int = 2,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        hidden_dim = hidden_dim or 256 * math.ceil(8 * dim / 3 / 256)
        self.token_embedding = nn.Embedding(vocab_size, dim)
        rotary = RotaryPositions(max_length, dim // num_heads, rotary_base)  # one, which all blocks share

        def feed_forward() -> nn.Module:
            return MixtureOfExperts(dim, hidden_dim, num_experts, experts_per_token) if num_experts else SwiGLU(dim, hidden_dim)

        def attention() -> Attention:
            return Attention(dim, num_heads, num_kv_heads or num_heads, dropout, rotary)

        self.blocks = nn.ModuleList(Block(dim, attention(), feed_forward(), dropout, norm_eps) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, norm_eps)
        self.output = None if tied else nn.Linear(dim, vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw weights normal, std 0.02; the last linear layer of each residual branch 0.02 / sqrt(branches), as in GPT-2."""
        branches = 2 * len(self.blocks)
        attentions = [module for module in self.modules() if isinstance(module, Attention)]
        feed_forwards = [module for module in self.modules() if isinstance(module, SwiGLU)]
        last = {attention.output for attention in attentions} | {feed_forward.down for feed_forward in feed_forwards}
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(branches) if module in last else 0.02)

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
            padding_mask: bool (B, T), True where a token is padding, on either side: nothing attends to it. What
                counts of positions is their distance, so padding on the left moves nothing. With a cache (B, S), for
                the tokens of the calls before as well. Or (B, T, T), True where the second token is of another text.
            cache: a `new_cache`; tokens are then only those that follow the calls before.
            last_only: compute the logits after the last token alone, (B, 1, V).

        Raises `ValueError` for more tokens than `max_length`.
        """
        end = (cache[0].length if cache else 0) + tokens.shape[1]
        if end > self.max_length:
            raise ValueError(f"{end} tokens are more than the {self.max_length} that the model has positions for")
        x = self.before_blocks(tokens)
        for i, block in enumerate(self.blocks):
            x = block(x, padding_mask, cache[i] if cache else None)
        return self.after_blocks(x[:, -1:] if last_only else x)

    def before_blocks(self, tokens: Tensor) -> Tensor:
        return self.token_embedding(tokens)  # (B, T) -> (B, T, C)

    def after_blocks(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return F.linear(x, self.token_embedding.weight) if self.output is None else self.output(x)  # (B, T, C) -> (B, T, V)


PRESETS: dict[str, dict[str, Any]] = {
    "llama_7b": {"dim": 4096, "depth": 32, "num_heads": 32},
    "llama_13b": {"dim": 5120, "depth": 40, "num_heads": 40},
    "llama_33b": {"dim": 6656, "depth": 60, "num_heads": 52},
    "llama_65b": {"dim": 8192, "depth": 80, "num_heads": 64},
    "llama2_70b": {
        **{"dim": 8192, "depth": 80, "num_heads": 64, "num_kv_heads": 8, "hidden_dim": 28672},
        **{"max_length": 4096, "norm_eps": 1e-5},
    },
    "llama3_8b": {
        **{"dim": 4096, "depth": 32, "num_heads": 32, "num_kv_heads": 8, "hidden_dim": 14336, "vocab_size": 128256},
        **{"max_length": 8192, "rotary_base": 500000.0, "norm_eps": 1e-5},
    },
    "stories260k": {
        **{"dim": 64, "depth": 5, "num_heads": 8, "num_kv_heads": 4, "hidden_dim": 172, "vocab_size": 512},
        **{"max_length": 512, "norm_eps": 1e-5, "tied": True},
    },
    "char": {
        **{"dim": 128, "depth": 4, "num_heads": 4, "num_kv_heads": 2, "hidden_dim": 352, "vocab_size": 65},
        **{"max_length": 64, "norm_eps": 1e-5, "tied": True},
    },
    "tiny": {
        **{"dim": 8, "depth": 2, "num_heads": 2, "num_kv_heads": 1, "hidden_dim": 12, "vocab_size": 11},
        **{"max_length": 16, "norm_eps": 1e-5},
    },
}


def build(preset: str = "llama_7b", **overrides: Any) -> Llama:
    """Return a Llama by the name of its preset; `overrides` are arguments of `Llama`."""
    return Llama(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
