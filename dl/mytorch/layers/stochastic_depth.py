"""Stochastic depth: residual branches that are now and then left out."""

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Drops a residual branch in training, for each example on its own (Huang et al. 2016, https://arxiv.org/abs/1603.09382).

    A branch that stays is divided by the probability to stay, so that its expectation is that of the branch and nothing
    has to be rescaled in evaluation, where the layer is the identity. The paper instead rescales in evaluation
    (equation 5) and drops a branch for the whole batch.

    `probability` to be dropped, 0 <= probability < 1; raises `ValueError` for any other.

    forward: (B, ...) -> (B, ...)
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"the probability to drop a branch is at least 0 and below 1; got {probability}")
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return branch
        stay = 1 - self.probability
        stays = branch.new_empty(len(branch), *[1] * (branch.ndim - 1)).bernoulli_(stay)  # (B, 1, ...), of 0 and 1
        return branch * (stays / stay)

    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"
