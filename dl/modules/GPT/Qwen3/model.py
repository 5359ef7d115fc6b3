"""Qwen3.

"Qwen3 Technical Report", An Yang and 59 others, 2025, https://arxiv.org/abs/2505.09388, section 2, tables 1 and 2: a
decoder-only transformer as Llama, with RMSNorms on the queries and keys of each head and heads of a free width; dense
("qwen3_0_6b" to "qwen3_32b"), or with a mixture of experts in each block ("qwen3_30b_a3b", "qwen3_235b_a22b"). "char" and
"char_experts" are ours, for characters of Shakespeare; "tiny" is for tests.

Options beyond the paper, each of a widely used model:
- `window`: a token attends to the last so many, itself among them (Mistral, https://arxiv.org/abs/2310.06825, section 2), but
  in every `full_every`-th block to all (Gemma 3, https://arxiv.org/abs/2503.19786, section 2).
- `sinks`: a learnt logit for each head, which takes a part of the attention and gives nothing (gpt-oss,
  https://arxiv.org/abs/2508.10925, section 2.2).
- `scaling`: rotary frequencies for longer texts, see `RotaryScaling`.

Deviations:
- The report does not say how weights begin; here they begin as in GPT-2.
- The cache keeps keys and values of all tokens, with a window too.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import KeyValueCache, RotaryPositions, fused_attention
from dl.mytorch.layers.rotary_scaling import RotaryScaling

# B batch, T tokens, S tokens with those in the cache, C width, H heads, G heads of keys and values, D width of a head,
# V vocabulary; N = B T, E experts, K of them for a token


class SwiGLU(nn.Module):
    """The feed-forward (silu(x W) * x V) W2: Shazeer 2020, https://arxiv.org/abs/2002.05202. forward: (..., C) -> (..., C)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.up = nn.Linear(dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # (..., C) -> (..., hidden_dim) -> (..., C)


class MixtureOfExperts(nn.Module):
    """E small feed-forwards, of which each token passes through the K likeliest, weighted by probabilities that sum up to 1.

    forward: (B, T, C) -> (B, T, C). Afterwards `balance` is the load-balancing loss, 1 when all experts are used equally: E
    times the sum over experts of the share of tokens and the mean probability. The report takes both over all sequences of a
    batch, not one by one. Padding is not counted.

    Raises `ValueError` for more experts a token than there are.
    """

    balance: Tensor

    def __init__(self, dim: int, hidden_dim: int, num_experts: int, experts_per_token: int) -> None:
        super().__init__()
        if not 1 <= experts_per_token <= num_experts:
            raise ValueError(f"a token passes through 1 to {num_experts} experts; got experts_per_token {experts_per_token}")
        self.experts_per_token = experts_per_token
        self.router = nn.Linear(dim, num_experts, bias=False)
        self.gate = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))  # of all experts in one: there are 128 in a block
        self.up = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.down = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        tokens = x.flatten(0, 1)  # (B, T, C) -> (N, C)
        precision = torch.promote_types(tokens.dtype, torch.float32)
        probabilities = self.router(tokens).softmax(-1, dtype=precision)  # (N, E)
        weights, chosen = probabilities.topk(self.experts_per_token)  # (N, K)
        real = ~padding_mask[:, -x.shape[1] :].flatten() if padding_mask is not None and padding_mask.ndim == 2 else slice(None)
        shares = F.one_hot(chosen[real], len(self.gate)).to(precision).mean((0, 1))  # (E,)
        self.balance = len(self.gate) * (shares * probabilities[real].mean(0)).sum()
        weights = weights / weights.sum(-1, keepdim=True)
        y = torch.zeros_like(tokens)
        for i, (gate, up, down) in enumerate(zip(self.gate, self.up, self.down)):
            rows, places = torch.where(chosen == i)
            hidden = F.silu(F.linear(tokens[rows], gate)) * F.linear(tokens[rows], up)
            y = y.index_add(0, rows, (weights[rows, places, None] * F.linear(hidden, down)).to(y.dtype))
        return y.view_as(x)  # (N, C) -> (B, T, C)


class Attention(nn.Module):
    """Causal self-attention; each head's queries and keys pass an RMSNorm before they are turned by their position.

    H heads of queries share G heads of keys and values (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245).

    Raises `ValueError` for heads that do not divide into groups, and for a window below 1.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        rotary: RotaryPositions,
        window: int | None,
        sinks: bool,
        norm_eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        if num_heads % num_kv_heads or (window is not None and window < 1):
            raise ValueError(
                f"{num_kv_heads} heads of keys have to divide {num_heads} of queries, and window {window} be 1 or more"
            )
        self.head_dim, self.window, self.rotary = head_dim, window, rotary
        self.query = nn.Linear(dim, num_heads * head_dim, bias=False)
        self.key = nn.Linear(dim, num_kv_heads * head_dim, bias=False)
        self.value = nn.Linear(dim, num_kv_heads * head_dim, bias=False)
        self.query_norm = nn.RMSNorm(head_dim, norm_eps)
        self.key_norm = nn.RMSNorm(head_dim, norm_eps)
        self.sinks = nn.Parameter(torch.zeros(num_heads)) if sinks else None
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, S)
        self.dropout = nn.Dropout(dropout)  # of the attention weights
        self.output = nn.Linear(num_heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, S) -> (B, T, C). With a cache, x continues the S - T positions in it."""
        query, key, value = (
            layer(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2)  # (B, T, H D) -> (B, T, H, D) -> (B, H, T, D), or G
            for layer in (self.query, self.key, self.value)
        )
        start = cache.length if cache else 0
        query, key = self.rotary(self.query_norm(query), start), self.rotary(self.key_norm(key), start)
        if cache is not None:
            key, value = cache.append(key, value)  # (B, G, T, D) -> (B, G, S, D)
        if self.window is None and self.sinks is None:
            y = fused_attention(query, key, value, padding_mask, causal=True, dropout=self.dropout, weights=self.weights)
        else:
            y = self.attend(query, key, value, padding_mask)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Return attention with a window or sinks, by the formula: (B, H, T, D), (B, G, S, D), (B, G, S, D) -> (B, H, T, D)."""
        length, positions = query.shape[2], key.shape[2]
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], dim=1) for part in (key, value))
        scores = query @ key.transpose(-2, -1) / math.sqrt(self.head_dim)  # (B, H, T, S)
        places = torch.arange(positions, device=scores.device)
        distance = places[positions - length :, None] - places  # (T, S), 0 for the token itself
        hidden = (distance < 0) | (distance >= (self.window or positions))
        if padding_mask is not None:
            hidden = hidden | (padding_mask[:, None, None] if padding_mask.ndim == 2 else padding_mask[:, None])  # (B, 1, T, S)
        scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)  # -inf would make a row without any key NaN
        if self.sinks is not None:
            sinks = self.sinks.to(scores.dtype)[:, None, None].expand(len(scores), -1, length, 1)
            scores = torch.cat([scores, sinks], dim=-1)
        weights = self.weights(scores.softmax(-1)[..., :positions])
        return (self.dropout(weights) @ value).masked_fill(hidden.all(-1, keepdim=True), 0.0)


class Block(nn.Module):
    """Attention and feed-forward, each with an RMSNorm before it and a shortcut around both."""

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
        masks = (padding_mask,) if isinstance(self.feed_forward, MixtureOfExperts) else ()
        return x + self.dropout(self.feed_forward(self.norm2(x), *masks))


class Qwen3(nn.Module):
    """Token embeddings, blocks, a last RMSNorm, logits.

    Args:
        head_dim: width of a head, which need not be dim / num_heads.
        hidden_dim: width inside the feed-forward, or inside each expert.
        max_length: the most tokens in a context.
        tied: the output layer has the matrix of the token embeddings, as in the networks of up to 4 billion.
        num_experts: above 0, each feed-forward is a `MixtureOfExperts`.
        window, full_every, sinks, scaling: see above. `full_every` 0: no block attends to all.
        dropout: of attention weights and of the output of every layer; the report has none.

    Raises `ValueError` for heads of odd width, heads that do not divide into groups, or more experts a token than there are.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        num_kv_heads: int,
        hidden_dim: int,
        head_dim: int = 128,
        vocab_size: int = 151936,
        max_length: int = 40960,
        rotary_base: float = 1e6,
        norm_eps: float = 1e-6,
        tied: bool = False,
        num_experts: int = 0,
        experts_per_token: int = 8,
        window: int | None = None,
        full_every: int = 0,
        sinks: bool = False,
        scaling: RotaryScaling | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.token_embedding = nn.Embedding(vocab_size, dim)
        rotary = RotaryPositions(max_length, head_dim, rotary_base, scaling)  # one, which all blocks share

        def block(i: int) -> Block:
            own = None if full_every and (i + 1) % full_every == 0 else window
            attention = Attention(dim, num_heads, num_kv_heads, head_dim, rotary, own, sinks, norm_eps, dropout)
            experts = (num_experts, experts_per_token)
            feed_forward = MixtureOfExperts(dim, hidden_dim, *experts) if num_experts else SwiGLU(dim, hidden_dim)
            return Block(dim, attention, feed_forward, dropout, norm_eps)

        self.blocks = nn.ModuleList(block(i) for i in range(depth))
        self.norm = nn.RMSNorm(dim, norm_eps)
        self.output = None if tied else nn.Linear(dim, vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw weights normal, std 0.02; the last linear layer of each residual branch 0.02 / sqrt(branches), as in GPT-2."""
        branches = 2 * len(self.blocks)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:  # else of a norm, or sinks
                last = name.endswith(("attention.output.weight", "down.weight", "down"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(branches) if last else 0.02)

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


def _sizes(dim: int, depth: int, num_heads: int, num_kv_heads: int, hidden_dim: int, **others: Any) -> dict[str, Any]:
    sizes = {"dim": dim, "depth": depth, "num_heads": num_heads, "num_kv_heads": num_kv_heads, "hidden_dim": hidden_dim}
    return sizes | others


_CHAR = {"head_dim": 32, "vocab_size": 65, "max_length": 64, "rotary_base": 1e4, "tied": True}

PRESETS: dict[str, dict[str, Any]] = {
    "qwen3_0_6b": _sizes(1024, 28, 16, 8, 3072, tied=True),
    "qwen3_1_7b": _sizes(2048, 28, 16, 8, 6144, tied=True),
    "qwen3_4b": _sizes(2560, 36, 32, 8, 9728, tied=True),
    "qwen3_8b": _sizes(4096, 36, 32, 8, 12288),
    "qwen3_14b": _sizes(5120, 40, 40, 8, 17408),
    "qwen3_32b": _sizes(5120, 64, 64, 8, 25600),
    "qwen3_30b_a3b": _sizes(2048, 48, 32, 4, 768, num_experts=128),
    "qwen3_235b_a22b": _sizes(4096, 94, 64, 4, 1536, num_experts=128),
    "char": _sizes(128, 4, 4, 2, 352, **_CHAR),
    "char_experts": _sizes(128, 4, 4, 2, 176, num_experts=4, experts_per_token=2, **_CHAR),
    "tiny": _sizes(8, 2, 2, 1, 12, head_dim=6, vocab_size=11, max_length=16, rotary_base=1e4, experts_per_token=2),
}


def build(preset: str = "qwen3_0_6b", **overrides: Any) -> Qwen3:
    """Return a Qwen3 by the name of its preset; `overrides` are arguments of `Qwen3`."""
    return Qwen3(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
