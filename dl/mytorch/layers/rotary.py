"""Rotary positions: queries and keys are turned, by an angle that grows with their position."""

import torch
from torch import Tensor, nn

# B batch, H heads, T positions, D width of a head


class RotaryPositions(nn.Module):
    """Turns each pair of a head's dimensions by position * base^(-2i/D), so that a product of two depends on their distance.

    Su et al. 2021, https://arxiv.org/abs/2104.09864, section 3.2.2. The pairs are (i, i + D/2), as in pretrained weights of
    Llama for transformers; the paper's are (2i, 2i + 1). The two differ by a fixed order of the rows of the projections.

    Raises `ValueError` for an odd width of a head.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, max_length: int, head_dim: int, base: float = 10000.0) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of dimensions, so a head's width has to be even; got {head_dim}")
        frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # (D/2,)
        angle = torch.arange(max_length, dtype=torch.float64)[:, None] * frequency  # (max_length, D/2)
        for name, table in (("cos", angle.cos()), ("sin", angle.sin())):
            self.register_buffer(name, table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x (B, H, T, D) at the positions from `start` on -> (B, H, T, D). Raises `ValueError` when there are not as many."""
        end = start + x.shape[2]
        if end > len(self.cos):
            raise ValueError(f"{end} positions are asked for, the model has {len(self.cos)}")
        cos, sin = self.cos[start:end], self.sin[start:end]  # (T, D/2)
        left, right = x.chunk(2, dim=-1)
        turned = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
        return turned.to(x.dtype)  # under autocast the tables are more exact than x
