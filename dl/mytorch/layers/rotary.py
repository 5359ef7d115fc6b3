"""Rotary positions: queries and keys are turned, by an angle that grows with their position."""

import torch
from torch import Tensor, nn

from dl.mytorch.layers.rotary_scaling import RotaryScaling, frequencies

# B batch, H heads, T positions, D width of a head


class RotaryPositions(nn.Module):
    """Turns each pair of a head's dimensions by position * base^(-2i/D), so that a product of two depends on their distance.

    Su et al. 2021, https://arxiv.org/abs/2104.09864, section 3.2.2. The pairs are (i, i + D/2), as in pretrained weights of
    Llama for transformers; the paper's are (2i, 2i + 1). The two differ by a fixed order of the rows of the projections.

    Args:
        scaling: see `RotaryScaling`; with "dynamic", keys in a cache keep the angles of the call in which they came.

    Raises `ValueError` for an odd width of a head.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, max_length: int, head_dim: int, base: float = 10000.0, scaling: RotaryScaling | None = None) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions turn pairs of dimensions, so a head's width has to be even; got {head_dim}")
        self.head_dim, self.base, self.scaling = head_dim, base, scaling
        for name, table in zip(("cos", "sin"), self.tables(max_length)):
            self.register_buffer(name, table.to(torch.get_default_dtype()), persistent=False)

    def tables(self, positions: int, length: int = 0) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (positions, D/2) in float64; "dynamic" ones are those of a text of `length` tokens."""
        frequency = frequencies(self.head_dim, self.base, self.scaling, length)
        angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency
        sharpness = 1.0 if self.scaling is None else self.scaling.sharpness
        return sharpness * angle.cos(), sharpness * angle.sin()

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """x (B, H, T, D) at the positions from `start` on -> (B, H, T, D). Raises `ValueError` when there are not as many."""
        end = start + x.shape[2]
        if end > len(self.cos):
            raise ValueError(f"{end} positions are asked for, the model has {len(self.cos)}")
        cos, sin = self.cos, self.sin
        if self.scaling is not None and self.scaling.rule == "dynamic" and end > self.scaling.original_length:
            cos, sin = (table.to(self.cos) for table in self.tables(end, length=end))
        cos, sin = cos[start:end], sin[start:end]  # (T, D/2)
        left, right = x.chunk(2, dim=-1)
        turned = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
        return turned.to(x.dtype)  # under autocast the tables are more exact than x
