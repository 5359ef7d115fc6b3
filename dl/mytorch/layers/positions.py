"""Times as sines and cosines, for networks that are told how far the noise is."""

import math

import torch
from torch import Tensor

# B batch


def time_frequencies(times: Tensor, dim: int, shift: int = 1) -> Tensor:
    """Sines, then cosines, of times (B,) at dim / 2 frequencies: (B, dim), in float32.

    As the code of Ho et al. 2020, https://arxiv.org/abs/2006.11239, has it: frequencies fall from 1 to 1/10000; with
    `shift` 0 not quite so far, as in Vaswani et al.
    """
    half = dim // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=times.device) / (half - shift))
    angle = times[:, None].float() * frequency  # (B, dim / 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)
