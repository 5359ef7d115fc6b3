"""DeepSeek-V3.

"DeepSeek-V3 Technical Report", DeepSeek-AI, 2024, https://arxiv.org/abs/2412.19437, sections 2.1 and 4.2: a decoder-only
transformer with multi-head latent attention, and in all blocks but the first few a mixture of experts that a bias keeps
balanced. "deepseek_v3" is the published network, with positions for long texts (section 4.3); "char" is ours, for characters of
Shakespeare; "tiny" is for tests.

Deviations:
- Rotary positions turn the pairs (i, i + R/2), not (2i, 2i + 1): another order of the same rows, see convert.py.
- Multi-token prediction (section 2.2) is left out.
- "char" is tied, and its weights begin with std 0.02; the report's 0.006 is for a width of 7,168.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import KeyValueCache, RotaryPositions, fused_attention
from dl.mytorch.layers.rotary_scaling import RotaryScaling

# B batch, T tokens, S tokens with those in the cache, C width, H heads, V vocabulary; L width of the latent, P and R widths of
# the parts of a query or key without and with a position, D width of a value; E experts, K of them for a token, G groups


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
    """Section 2.1.2: shared experts, through which all tokens pass, and E routed ones, of which a token passes through K.

    A token's affinity to an expert is a sigmoid. `bias` is added to it where the K best are chosen, and nowhere else. They are
    chosen from `groups_per_token` groups of experts, those whose two best sum up to most (a group is a machine in the report).

    forward: (B, T, C) -> (B, T, C). Afterwards `balance` is the mean of the sequence-wise loss (equations 17 to 20), 1 when
    all experts are used equally; in training `load` (E,) has counted the tokens of each expert. Padding counts in neither.

    Raises `ValueError` for experts that do not divide into groups, or more groups or experts a token than there are.
    """

    bias: Tensor
    load: Tensor
    balance: Tensor

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        experts_per_token: int,
        num_shared: int,
        num_groups: int,
        groups_per_token: int,
        routed_scale: float,
    ) -> None:
        super().__init__()
        if num_experts % num_groups or not 1 <= groups_per_token <= num_groups:
            groups = f"num_groups {num_groups} has to divide num_experts {num_experts}"
            raise ValueError(f"{groups}, and be groups_per_token {groups_per_token} or more")
        most = groups_per_token * num_experts // num_groups
        if not 1 <= experts_per_token <= most:
            raise ValueError(f"a token passes through 1 to {most} experts; got experts_per_token {experts_per_token}")
        self.experts_per_token, self.routed_scale = experts_per_token, routed_scale
        self.num_groups, self.groups_per_token = num_groups, groups_per_token
        self.router = nn.Linear(dim, num_experts, bias=False)
        self.gate = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))  # of all experts in one: there are 256 in a block
        self.up = nn.Parameter(torch.empty(num_experts, hidden_dim, dim))
        self.down = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.shared = SwiGLU(dim, num_shared * hidden_dim)  # the sum of `num_shared`
        self.register_buffer("bias", torch.zeros(num_experts))
        self.register_buffer("load", torch.zeros(num_experts, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        logits = self.router(x)  # (B, T, E)
        affinities = logits.to(torch.promote_types(logits.dtype, torch.float32)).sigmoid()
        real = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if padding_mask is not None:
            real = ~padding_mask[:, -x.shape[1] :]
        self.balance = self.sequence_balance(affinities, real)
        weights, chosen = self.route(affinities.flatten(0, 1))  # (B T, K)
        if self.training:
            self.load.index_add_(0, chosen.flatten(), real.flatten().repeat_interleave(self.experts_per_token).long())
        tokens = x.flatten(0, 1)  # (B, T, C) -> (B T, C)
        y = torch.zeros_like(tokens)
        for i, (gate, up, down) in enumerate(zip(self.gate, self.up, self.down)):
            rows, places = torch.where(chosen == i)
            hidden = F.silu(F.linear(tokens[rows], gate)) * F.linear(tokens[rows], up)
            y = y.index_add(0, rows, (weights[rows, places, None] * F.linear(hidden, down)).to(y.dtype))
        return self.shared(x) + y.view_as(x)

    def route(self, affinities: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights of the chosen experts, and which they are: (N, E) -> (N, K) twice."""
        biased = (affinities + self.bias).unflatten(1, (self.num_groups, -1))  # (N, G, E/G)
        of_groups = biased.topk(min(2, biased.shape[2])).values.sum(2)  # (N, G)
        best = of_groups.topk(self.groups_per_token).indices
        out = torch.ones_like(of_groups, dtype=torch.bool).scatter(1, best, False)
        biased = biased.masked_fill(out[..., None], -torch.inf).flatten(1)  # not 0, which is more than a negative bias leaves
        chosen = biased.topk(self.experts_per_token).indices
        weights = affinities.gather(1, chosen)
        return self.routed_scale * weights / (weights.sum(1, keepdim=True) + 1e-20), chosen

    def sequence_balance(self, affinities: Tensor, real: Tensor) -> Tensor:
        """Return the loss of affinities (B, T, E), a mean over sequences; `real` is bool (B, T)."""
        count = real.sum(1).clamp(min=1)[:, None]  # (B, 1)
        chosen = affinities.topk(self.experts_per_token).indices  # by what the report has here: without the bias, of all groups
        hits = torch.zeros_like(affinities).scatter(2, chosen, 1.0)  # (B, T, E)
        shares = (hits * real[..., None]).sum(1) / (self.experts_per_token * count)  # (B, E)
        means = (affinities / affinities.sum(2, keepdim=True) * real[..., None]).sum(1) / count
        return len(self.gate) * (shares * means).sum(1).mean()

    @torch.no_grad()
    def update_bias(self, load: Tensor, speed: float) -> None:
        """Raise the bias of experts that had less than the mean `load` (E,) by `speed`, and lower that of the others."""
        self.bias += speed * torch.sign(load.sum() - len(load) * load)  # in integers: no rounding decides


class Attention(nn.Module):
    """Section 2.1.1: causal attention whose keys and values are made from one narrow latent of each token.

    A cache keeps the latent and one key with a position, which all heads share: L + R numbers a token. It does not expand
    them: what makes keys is multiplied into the query, what makes values into the output.

    Args:
        query_rank: width of the latent that queries are made from; None: they are made from the token itself.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        query_rank: int | None,
        latent_dim: int,
        plain_dim: int,
        value_dim: int,
        rotary: RotaryPositions,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.rotary = num_heads, rotary
        self.latent_dim, self.plain_dim, self.rotary_dim, self.value_dim = latent_dim, plain_dim, rotary.head_dim, value_dim
        self.logit_factor = 1.0 if rotary.scaling is None else rotary.scaling.logit_factor
        self.query_down = self.query_norm = None
        if query_rank is not None:
            self.query_down = nn.Linear(dim, query_rank, bias=False)
            self.query_norm = nn.RMSNorm(query_rank, 1e-6)
        self.query = nn.Linear(query_rank or dim, num_heads * (plain_dim + self.rotary_dim), bias=False)
        self.latent = nn.Linear(dim, latent_dim + self.rotary_dim, bias=False)  # and the key with a position
        self.latent_norm = nn.RMSNorm(latent_dim, 1e-6)
        self.key_value = nn.Linear(latent_dim, num_heads * (plain_dim + value_dim), bias=False)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, S)
        self.dropout = nn.Dropout(dropout)  # of the attention weights
        self.output = nn.Linear(num_heads * value_dim, dim, bias=False)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, S) -> (B, T, C). With a cache, x continues the S - T positions in it."""
        start = cache.length if cache else 0
        query = self.query(x if self.query_down is None else self.query_norm(self.query_down(x)))
        query = query.unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, H (P + R)) -> (B, H, T, P + R)
        plain, turned = query.split([self.plain_dim, self.rotary_dim], dim=3)
        turned = self.rotary(turned, start)
        latent, key = self.latent(x)[:, None].split([self.latent_dim, self.rotary_dim], dim=3)  # (B, 1, T, L), (B, 1, T, R)
        latent, key = self.latent_norm(latent).to(key.dtype), self.rotary(key, start)
        if cache is not None:
            latent, key = cache.append(latent, key)  # (B, 1, S, L), (B, 1, S, R)
        attend = self.attend_absorbed if start else self.attend_expanded
        y = attend(plain, turned, latent, key, padding_mask)  # (B, H, T, D)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H D) -> (B, T, C)

    def attend_expanded(self, plain: Tensor, turned: Tensor, latent: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Make keys and values of the latent, and attend: (B, H, T, P), (B, H, T, R), (B, 1, S, L), (B, 1, S, R)."""
        expanded = self.key_value(latent[:, 0]).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, H, S, P + D)
        keys, values = expanded.split([self.plain_dim, self.value_dim], dim=3)
        keys = torch.cat([keys, key.expand(-1, self.num_heads, -1, -1)], dim=3)  # (B, H, S, P + R)
        return self.attention(torch.cat([plain, turned], dim=3), keys, values, mask)

    def attend_absorbed(self, plain: Tensor, turned: Tensor, latent: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """The same with the latent itself as key and value: q (W c) = (q W) c, and V c summed up is V times the sum of c."""
        weight = self.key_value.weight.unflatten(0, (self.num_heads, -1))  # (H, P + D, L)
        to_keys, to_values = weight.split([self.plain_dim, self.value_dim], dim=1)
        query = torch.cat([plain @ to_keys, turned], dim=3)  # (B, H, T, L + R)
        y = self.attention(query, torch.cat([latent, key], dim=3), latent, mask)  # (B, H, T, L)
        return y @ to_values.mT  # (B, H, T, D)

    def attention(self, query: Tensor, keys: Tensor, values: Tensor, padding_mask: Tensor | None) -> Tensor:
        """Return causal attention with logits over sqrt(P + R), whatever the width of the query is."""
        query = query * (self.logit_factor * math.sqrt(query.shape[3] / (self.plain_dim + self.rotary_dim)))
        return fused_attention(query, keys, values, padding_mask, causal=True, dropout=self.dropout, weights=self.weights)


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


class DeepSeekV3(nn.Module):
    """Token embeddings, blocks, a last RMSNorm, logits.

    Args:
        hidden_dim: width inside the feed-forward of the first `num_dense` blocks.
        expert_dim: width inside each expert of the others.
        query_rank, latent_dim, plain_dim, rotary_dim, value_dim: see `Attention`; the widths but the first two are of a head.
        num_experts, experts_per_token, num_shared, num_groups, groups_per_token: see `MixtureOfExperts`.
        routed_scale: what the weights of a token's routed experts sum up to.
        scaling: of the rotary frequencies, see `RotaryScaling`.
        norm_eps: of the blocks' norms; those of latents have 1e-6.
        tied: the output layer has the matrix of the token embeddings.
        init_std: of all initial weights.
        dropout: of attention weights and of the output of every layer; the report has none.

    Raises `ValueError` for an odd `rotary_dim`, and what `MixtureOfExperts` refuses.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        hidden_dim: int,
        expert_dim: int,
        query_rank: int | None,
        latent_dim: int,
        plain_dim: int,
        rotary_dim: int,
        value_dim: int,
        num_experts: int,
        experts_per_token: int,
        num_groups: int,
        groups_per_token: int,
        num_shared: int = 1,
        num_dense: int = 3,
        routed_scale: float = 2.5,
        vocab_size: int = 129280,
        max_length: int = 163840,
        rotary_base: float = 1e4,
        scaling: RotaryScaling | None = None,
        norm_eps: float = 1e-6,
        tied: bool = False,
        init_std: float = 0.006,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.max_length, self.init_std = max_length, init_std
        self.token_embedding = nn.Embedding(vocab_size, dim)
        rotary = RotaryPositions(max_length, rotary_dim, rotary_base, scaling)  # one, which all blocks share
        experts = (num_experts, experts_per_token, num_shared, num_groups, groups_per_token, routed_scale)

        def block(i: int) -> Block:
            attention = Attention(dim, num_heads, query_rank, latent_dim, plain_dim, value_dim, rotary, dropout)
            feed_forward = SwiGLU(dim, hidden_dim) if i < num_dense else MixtureOfExperts(dim, expert_dim, *experts)
            return Block(dim, attention, feed_forward, dropout, norm_eps)

        self.blocks = nn.ModuleList(block(i) for i in range(depth))
        self.norm = nn.RMSNorm(dim, norm_eps)
        self.output = None if tied else nn.Linear(dim, vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights normal with std `init_std` (section 4.2)."""
        for parameter in self.parameters():
            if parameter.ndim > 1:  # else of a norm
                nn.init.normal_(parameter, std=self.init_std)

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
                the tokens of the calls before as well.
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
    "deepseek_v3": {
        **{"dim": 7168, "depth": 61, "num_heads": 128, "hidden_dim": 18432, "expert_dim": 2048},
        **{"query_rank": 1536, "latent_dim": 512, "plain_dim": 128, "rotary_dim": 64, "value_dim": 128},
        **{"num_experts": 256, "experts_per_token": 8, "num_groups": 8, "groups_per_token": 4},
        "scaling": RotaryScaling("yarn", 40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
    },
    "char": {
        **{"dim": 128, "depth": 4, "num_heads": 4, "hidden_dim": 352, "expert_dim": 44, "num_dense": 1},
        **{"query_rank": 64, "latent_dim": 32, "plain_dim": 32, "rotary_dim": 16, "value_dim": 32},
        **{"num_experts": 8, "experts_per_token": 2, "num_groups": 4, "groups_per_token": 2, "routed_scale": 1.0},
        **{"vocab_size": 65, "max_length": 64, "tied": True, "init_std": 0.02},
    },
    "tiny": {
        **{"dim": 8, "depth": 2, "num_heads": 2, "hidden_dim": 12, "expert_dim": 6, "num_dense": 1},
        **{"query_rank": 5, "latent_dim": 6, "plain_dim": 3, "rotary_dim": 4, "value_dim": 5},
        **{"num_experts": 6, "experts_per_token": 2, "num_groups": 3, "groups_per_token": 2, "routed_scale": 1.5},
        **{"vocab_size": 11, "max_length": 16, "init_std": 0.02},
    },
}


def build(preset: str = "deepseek_v3", **overrides: Any) -> DeepSeekV3:
    """Return a DeepSeekV3 by the name of its preset; `overrides` are arguments of `DeepSeekV3`."""
    return DeepSeekV3(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
