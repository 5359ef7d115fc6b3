"""Mamba.

"Mamba: Linear-Time Sequence Modeling with Selective State Spaces", Albert Gu & Tri Dao, 2023,
https://arxiv.org/abs/2312.00752, section 3, algorithm 2, figure 3: in place of attention each channel has a state of N numbers,
a linear recurrence whose decay, input and output depend on the token, so that it selects what to remember. A token costs the
same after ten tokens and after a million. "mamba_130m" to "mamba_2_8b" are the published networks; "char" is ours, for
characters of Shakespeare; "tiny" is for tests.

Deviations, all as in the authors' code:
- B is discretised as step B (Euler), not by equation 4 (zero-order hold), which A alone follows.
- Section 3.6 draws the first steps uniformly from 0.001 to 0.1; here their logarithm is uniform.
"""

import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# B batch, T tokens, C width, E inner width (channels), N state of a channel, R rank of the steps, K width of the convolution,
# V vocabulary. In a scan: P = T / L chunks of L tokens

ENDLESS = sys.maxsize  # tokens of a context


class State:
    """What a block remembers of a text: as much after a million tokens as after one. For inference; `length` tokens so far."""

    conv: Tensor | None = None  # the last K - 1 inputs of the convolution, (B, K - 1, E)
    ssm: Tensor | None = None  # (B, N, E)
    length = 0
    can_be_cut = False  # to fewer tokens, as a cache of keys and values can

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, each as often as it is named: the step of a beam search."""
        if self.conv is not None and self.ssm is not None:
            self.conv, self.ssm = self.conv[rows], self.ssm[rows]


def recurrence(state: Tensor, A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs (..., T, E) and the last state (..., N, E): h = exp(step A) h + B u, y = C h, token by token.

    Args:
        state: the first one; A: (N, E), negative; step, u: (..., T, E); B, C: (..., T, N).
    """
    outputs = []
    rows = zip(*(x.unsqueeze(-2).unbind(-3) for x in (step, u, C)), B.unsqueeze(-1).unbind(-3))
    for step_t, u_t, C_t, B_t in rows:  # (..., 1, E), (..., 1, E), (..., 1, N), (..., N, 1)
        state = torch.exp(step_t * A) * state + B_t * u_t
        outputs.append(C_t @ state)  # (..., 1, N) (..., N, E) -> (..., 1, E)
    return torch.cat(outputs, dim=-2), state


def selective_scan(
    state: Tensor, A: Tensor, step: Tensor, u: Tensor, B: Tensor, C: Tensor, chunk: int = 0
) -> tuple[Tensor, Tensor]:
    """Return what `recurrence` does, by chunks of so many tokens that are computed side by side: L + T / L steps instead of T.

    First all chunks begin from nothing; where each ends, and how far its decays take what was there before, gives the states
    at which they begin, from which they are computed. All exponents are negative: it is as exact as the recurrence for any
    decay. `chunk` 0: the recurrence.
    """
    length = step.shape[1]
    if not 0 < chunk < length:
        return recurrence(state, A, step, u, B, C)
    step, u, B, C = (  # tokens with step 0 and u 0 at the end change no state
        F.pad(x, (0, 0, 0, -length % chunk)).unflatten(1, (-1, chunk))  # (B, T, ...) -> (B, P, L, ...)
        for x in (step, u, B, C)
    )
    nothing = torch.zeros_like(state)[:, None]  # (B, 1, N, E)
    _, ends = recurrence(nothing, A, step, u, B, C)  # (B, P, N, E)
    decays = torch.exp(step.sum(2)[:, :, None] * A)  # (B, P, N, E), of whole chunks
    states = [state]
    for decay, end in zip(decays[:, :-1].unbind(1), ends[:, :-1].unbind(1)):
        states.append(decay * states[-1] + end)
    y, ends = recurrence(torch.stack(states, dim=1), A, step, u, B, C)
    return y.flatten(1, 2)[:, :length], ends[:, -1]  # (B, P, L, E) -> (B, T, E)


class SelectiveStateSpace(nn.Module):
    """Algorithm 2 (S6): x (B, T, E), state (B, N, E) -> outputs (B, T, E), the last state.

    Step, B and C are of each token: a large step lets it into the state and the past out, a small one passes it by.
    """

    no_weight_decay = ("A_log",)  # D and the biases are no matrices

    def __init__(self, inner_dim: int, state_dim: int, step_rank: int, chunk: int) -> None:
        super().__init__()
        self.chunk, self.sizes = chunk, (step_rank, state_dim, state_dim)
        self.select = nn.Linear(inner_dim, sum(self.sizes), bias=False)
        self.step = nn.Linear(step_rank, inner_dim)
        self.A_log = nn.Parameter(torch.empty(inner_dim, state_dim))
        self.D = nn.Parameter(torch.ones(inner_dim))

    def init_weights(self) -> None:
        """Section 3.6: A = -1, ..., -N in each channel (S4D-Real); the first steps lie between 0.001 and 0.1."""
        inner_dim, state_dim = self.A_log.shape
        nn.init.uniform_(self.step.weight, -(self.sizes[0] ** -0.5), self.sizes[0] ** -0.5)
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, state_dim + 1).log().expand(inner_dim, -1))
            steps = torch.exp(torch.empty_like(self.step.bias).uniform_(math.log(1e-3), math.log(0.1)))
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus of it is `steps`

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        step, B, C = self.select(x).split(self.sizes, dim=-1)  # (B, T, E) -> (B, T, R), (B, T, N), (B, T, N)
        step = F.softplus(self.step(step)).to(state.dtype)  # (B, T, R) -> (B, T, E)
        A = -torch.exp(self.A_log.T.to(state.dtype))  # (N, E): channels last, where loops over memory are long
        y, state = selective_scan(state, A, step, step * x, B.to(state.dtype), C.to(state.dtype), self.chunk)
        return y.to(x.dtype) + self.D * x, state


class MambaBlock(nn.Module):
    """Figure 3: norm; a causal convolution and the state space, gated by a second path; a shortcut around all.

    Attention and feed-forward in one: the paper has two of them for each block of a transformer.
    """

    def __init__(
        self,
        dim: int,
        inner_dim: int,
        state_dim: int,
        step_rank: int,
        conv_width: int,
        chunk: int,
        biases: bool,
        norm_eps: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, norm_eps)
        self.input = nn.Linear(dim, 2 * inner_dim, bias=biases)
        self.conv = nn.Conv1d(inner_dim, inner_dim, conv_width, groups=inner_dim)  # each channel by itself
        self.ssm = SelectiveStateSpace(inner_dim, state_dim, step_rank, chunk)
        self.output = nn.Linear(inner_dim, dim, bias=biases)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: State | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, S) -> (B, T, C). With a cache, x continues the S - T tokens in it."""
        inner, gate = self.input(self.norm(x)).chunk(2, dim=-1)  # (B, T, C) -> 2 x (B, T, E)
        real = 1 if padding_mask is None else (~padding_mask[:, -x.shape[1] :, None]).to(x.dtype)  # (B, T, 1)
        cache = cache or State()
        inner = inner * real  # neither convolution nor state sees padding
        if cache.conv is None or cache.ssm is None:
            precision = torch.promote_types(x.dtype, torch.float32)  # a sum over the whole text
            cache.conv = inner.new_zeros(len(x), self.conv.kernel_size[0] - 1, inner.shape[2])
            cache.ssm = inner.new_zeros(len(x), self.ssm.sizes[1], inner.shape[2], dtype=precision)
        inner = torch.cat([cache.conv, inner], dim=1)  # (B, K - 1 + T, E)
        cache.conv = inner[:, x.shape[1] :].clone()  # not a view, which would keep all tokens in memory
        inner = F.silu(self.conv(inner.transpose(1, 2)).transpose(1, 2)) * real  # (B, T, E); its bias would be the padding's
        inner, cache.ssm = self.ssm(inner, cache.ssm)
        cache.length += x.shape[1]
        return x + self.dropout(self.output(inner * F.silu(gate)))  # (B, T, E) -> (B, T, C)


class Mamba(nn.Module):
    """Token embeddings, blocks, a last RMSNorm, logits by the matrix of the embeddings.

    Args:
        state_dim: N; the state of a block is N numbers for each of expand x dim channels.
        step_rank: R, 0 = dim / 16, rounded up.
        max_length: tokens after which generation begins a new context. The network itself has no positions, and no end.
        chunk: tokens of a chunk of the scan, see `selective_scan`; it changes speed, not results.
        biases: of the linear layers at both ends of a block; the paper has none.
        dropout: of the output of every block; the paper has none.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        vocab_size: int = 50280,
        state_dim: int = 16,
        expand: int = 2,
        conv_width: int = 4,
        step_rank: int = 0,
        max_length: int = ENDLESS,
        chunk: int = 0,
        tied: bool = True,
        biases: bool = False,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.token_embedding = nn.Embedding(vocab_size, dim)
        rank = step_rank or math.ceil(dim / 16)
        sizes = (dim, expand * dim, state_dim, rank, conv_width, chunk, biases, norm_eps, dropout)
        self.blocks = nn.ModuleList(MambaBlock(*sizes) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, norm_eps)
        self.output = None if tied else nn.Linear(dim, vocab_size, bias=False)
        self.init_weights()

    def init_weights(self) -> None:
        """Embeddings are normal, std 0.02; a block's last layer is divided by sqrt(depth); else torch's and section 3.6's."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        for block in self.blocks:
            block.ssm.init_weights()
            for linear in (block.input, block.output):
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)
            with torch.no_grad():
                block.output.weight /= math.sqrt(len(self.blocks))

    def new_cache(self) -> list[State]:
        """Return an empty cache for `forward` to fill."""
        return [State() for _ in self.blocks]

    def forward(
        self,
        tokens: Tensor,
        padding_mask: Tensor | None = None,
        cache: list[State] | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """tokens (B, T) -> logits (B, T, V), those at t for token t + 1.

        Args:
            padding_mask: bool (B, T), True where a token is padding. A row with padding on the left is the row without. With
                a cache (B, S), for the tokens of the calls before as well, or for these tokens alone.
            cache: a `new_cache`; tokens are then only those that follow the calls before.
            last_only: compute the logits after the last token alone, (B, 1, V).
        """
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
    "mamba_130m": {"dim": 768, "depth": 24},
    "mamba_370m": {"dim": 1024, "depth": 48},
    "mamba_790m": {"dim": 1536, "depth": 48},
    "mamba_1_4b": {"dim": 2048, "depth": 48},
    "mamba_2_8b": {"dim": 2560, "depth": 64},
    "char": {"dim": 128, "depth": 7, "vocab_size": 65},
    "tiny": {"dim": 8, "depth": 2, "vocab_size": 11, "state_dim": 4, "step_rank": 2},
}


def build(preset: str = "mamba_130m", **overrides: Any) -> Mamba:
    """Return a Mamba by the name of its preset; `overrides` are arguments of `Mamba`."""
    return Mamba(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
