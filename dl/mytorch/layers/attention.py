"""Attention: the plain formula, the fused one with masks, and the cache for decoding.

"Attention Is All You Need", Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.2. Masks are True where
something is not to be seen, as in `torch.nn`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# B batch, T queries, S keys, C width, H heads, G heads of keys and values, D width of a head


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(D)) V, equation 1, with the weights: the formula to read, and to look at the weights.

    query (B, H, T, D), key and value (B, H, S, D), mask (B, H, T, S) or what broadcasts to it -> output (B, H, T, D),
    weights (B, H, T, S) before `dropout`, a layer. A query that may see no key has an output of zero, as in
    `F.scaled_dot_product_attention`, and equal weights; `nn.MultiheadAttention` gives NaN.
    """
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        scores = scores.masked_fill(mask, torch.finfo(scores.dtype).min)  # -inf would make a row without any key NaN
    weights = scores.softmax(-1)
    output = (weights if dropout is None else dropout(weights)) @ value
    return output if mask is None else output.masked_fill(mask.all(-1, keepdim=True), 0.0), weights


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding_mask: Tensor | None = None,
    causal: bool = False,
    dropout: nn.Dropout | None = None,
    weights: nn.Module | None = None,
) -> Tensor:
    """`attention` by torch's fused kernel, which keeps no weights, with the masks that models need.

    query (B, H, T, D), key and value (B, G, S, D), where G divides H and each of these heads serves H / G heads of queries
    (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245) -> (B, H, T, D).

    Args:
        padding_mask: bool (B, S), True where a key is padding: it gets no weight. Or (B, T, S), for each query: texts that are
            packed into one row do not see each other. The output of a query that may see no key is 0.
        causal: the queries are the last T of the S positions, and each sees the keys up to its own position.
        dropout: of the attention weights.
        weights: called with the attention weights (B, H, T, S) if a `Probe` looks at it. All is then computed by `attention`.

    Raises `ValueError` for a padding_mask of another type or shape.
    """
    length, positions = query.shape[2], key.shape[2]
    # In bf16 on a CPU torch's kernel takes 2 to 10 times as long as the formula, most of it in its backward pass.
    plain = bool(weights is not None and weights._forward_hooks) or (
        query.dtype == torch.bfloat16 and query.device.type == "cpu"
    )
    causal = causal and length > 1  # one query alone is the last position, which sees all
    mask = None if padding_mask is None else _of_keys(padding_mask, len(key), length, positions)
    if causal and (plain or mask is not None or length < positions):
        future = torch.ones(length, positions, dtype=torch.bool, device=query.device).triu(positions - length + 1)
        mask = future if mask is None else mask | future  # (T, S) or (B, 1, T, S)
        causal = False
    grouped = key.shape[1] < query.shape[1]
    if plain:
        if grouped:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        y, probabilities = attention(query, key, value, mask, dropout)
        if weights is not None:
            weights(probabilities)
        return y
    seen = None if mask is None else ~mask
    p = dropout.p if dropout is not None and dropout.training else 0.0
    y = F.scaled_dot_product_attention(query, key, value, seen, p, is_causal=causal, enable_gqa=grouped)
    # Of a query that sees nothing, torch's kernels for a CPU make 0, those for CUDA the mean of all values.
    return y if mask is None else y.masked_fill(mask.all(-1, keepdim=True), 0.0)


def _of_keys(padding_mask: Tensor, count: int, length: int, positions: int) -> Tensor:
    """Return the mask as scores need it. Raises `ValueError` unless it is bool, (B, S) or (B, T, S)."""
    if padding_mask.dtype != torch.bool or padding_mask.shape not in ((count, positions), (count, length, positions)):
        got = f"{padding_mask.dtype} {tuple(padding_mask.shape)}"
        raise ValueError(f"padding_mask has to be bool {(count, positions)}, True where a key is padding; got {got}")
    return padding_mask[:, None, None] if padding_mask.ndim == 2 else padding_mask[:, None]  # (B, 1, 1 or T, S)


class KeyValueCache:
    """Keys and values of the positions decoded so far, in memory that is allocated once, at the first call.

    One for each attention layer and each batch of sequences; for inference, as it is written in place.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add key and value (B, G, T, D), each of its own D, of the next positions; returns those of all, (B, G, length, D).

        Raises `ValueError` when they do not fit into `capacity`.
        """
        new = key.shape[2]
        if self.length + new > self.capacity:
            raise ValueError(f"the cache has room for {self.capacity} positions: no {new} after {self.length}")
        if self.length == 0:
            self.keys, self.values = (x.new_empty(*x.shape[:2], self.capacity, x.shape[3]) for x in (key, value))
        self.keys.narrow(2, self.length, new).copy_(key)
        self.values.narrow(2, self.length, new).copy_(value)
        self.length += new
        return self.contents()

    def contents(self) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, G, length, D) of the positions so far."""
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order, each as often as it is named: the step of a beam search."""
        self.keys, self.values = self.keys[rows], self.values[rows]
