"""The feed-forward of a transformer: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 3.3."""

from typing import Callable

from torch import nn

from dl.mytorch.layers.dropout import FastDropout
from dl.mytorch.layers.sequential import sequential

# B batch, T positions, C width

Activation = Callable[[], nn.Module]


def feed_forward(
    dim: int, hidden_dim: int, activation: Activation = nn.GELU, dropout: float = 0.0, bias: bool = True
) -> nn.Sequential:
    """Section 3.3: two linear layers at each position, (B, T, C) -> (B, T, hidden_dim) -> (B, T, C), dropout between them."""
    return sequential(
        fc1=nn.Linear(dim, hidden_dim, bias=bias),
        act=activation(),
        dropout=FastDropout(dropout),
        fc2=nn.Linear(hidden_dim, dim, bias=bias),
    )
