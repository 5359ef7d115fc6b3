"""`F.scaled_dot_product_attention`, by the formula of dl/mytorch/layers/attention.py."""

import math

import torch
from torch import Tensor, nn

from dl.mytorch.layers.attention import attention


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`attention` with the arguments of `F.scaled_dot_product_attention`, where a mask is True at what is seen.

    Raises `ValueError` for a mask of numbers, and for a mask beside `is_causal`, which is one already.
    """
    if attn_mask is not None and is_causal:
        raise ValueError("attn_mask and is_causal: give one mask that has both")
    if attn_mask is not None and attn_mask.dtype != torch.bool:
        raise ValueError(f"a mask of {attn_mask.dtype}: here a mask is bool, True where a key is seen")
    if scale is not None:
        query = query * scale * math.sqrt(query.shape[-1])  # `attention` divides by this root
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    mask = None if attn_mask is None else ~attn_mask
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).triu(1)
    return attention(query, key, value, mask, nn.Dropout(dropout_p))[0]
