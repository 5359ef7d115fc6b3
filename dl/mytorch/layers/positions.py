"""Sinusoidal positions, and times in the same way."""

import math

import torch
from torch import Tensor

# B batch, T positions, C width


def sinusoidal_positions(length: int, dim: int) -> Tensor:
    """PE(t, 2i) = sin(t / 10000^(2i/dim)), PE(t, 2i+1) = cos(the same): (length, dim), in float64.

    Vaswani et al. 2017, section 3.5. Raises `ValueError` for an odd `dim`: sines and cosines come in pairs.
    """
    if dim % 2:
        raise ValueError(f"sinusoidal positions come in pairs, so dim has to be even; got {dim}")
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)  # (C/2,)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * frequency  # (T, C/2)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # (T, C/2, 2) -> (T, C)


def time_frequencies(times: Tensor, dim: int, shift: int = 1) -> Tensor:
    """Sines, then cosines, of times (B,) at dim / 2 frequencies: (B, dim), in float32.

    As the code of Ho et al. 2020, https://arxiv.org/abs/2006.11239, has it: frequencies fall from 1 to 1/10000; with
    `shift` 0 not quite so far, as in Vaswani et al.
    """
    half = dim // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=times.device) / (half - shift))
    angle = times[:, None].float() * frequency  # (B, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
