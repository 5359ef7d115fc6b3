"""Dropout: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html."""

import torch
from torch import Tensor, nn

from dl.mytorch.from_scratch.checks import floating, probability


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """In training each number becomes 0 with probability `p`; the others are divided by 1 - p, so the mean stays.

    The paper instead multiplies the weights by 1 - p afterwards. `inplace` is taken, and changes nothing: the result is a
    new tensor. Raises `ValueError` unless 0 <= p <= 1.
    """
    probability(p)
    if not training or p == 0:
        return input
    stays = torch.empty_like(floating(input)).bernoulli_(1 - p)  # of 0 and 1
    return input * (stays / (1 - p) if p < 1 else stays)


class Dropout(nn.Module):
    """`dropout` with probability `p`, while the module is in training mode. forward: (...) -> (...)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        probability(p)
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)
