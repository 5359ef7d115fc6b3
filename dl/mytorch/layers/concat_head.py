"""The output layer over joined features."""

from typing import Callable, Sequence

import torch
from torch import Tensor, nn


class ConcatHead(nn.Module):
    """Features from several sources, joined; one hidden layer; the output.

    Straight from the joined vector, each source would add a term of its own to the output, blind to the others: a linear
    layer of [a, b] is one of a plus one of b. The hidden layer lets them act together.

    Args:
        dims: widths of the features, in the order of the call.

    forward: features (..., dims[i]) -> (..., out_dim).
    """

    def __init__(
        self,
        dims: Sequence[int],
        hidden_dim: int,
        out_dim: int,
        activation: Callable[[], nn.Module] = nn.ReLU,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(sum(dims), hidden_dim)
        self.act = activation()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_dim, out_dim)

    def forward(self, *features: Tensor) -> Tensor:
        joined = torch.cat(features, dim=-1)  # (..., dims[i]) -> (..., sum of dims)
        return self.output(self.dropout(self.act(self.hidden(joined))))
