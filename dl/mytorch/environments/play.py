"""Episodes played by a fixed policy, for evaluation and figures, in environments and with seeds that training never uses."""

from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

from dl.mytorch.environments.member import Member
from dl.mytorch.environments.spaces import Spaces
from dl.mytorch.environments.vector import move
from dl.mytorch.float64 import with_float64
from dl.mytorch.metrics import Metric

Policy = Callable[[Tensor], Tensor]  # observations (n, O) -> actions (n,), integers from 0, or (n, A)

VALIDATION, TEST = 2**40, 2**41  # first seeds of evaluation; those of training are below 2^33


def spaces_of(name: str) -> Spaces:
    """Return the spaces of the environment called `name`. Raises `UserError` as `Member` does."""
    return Member(name, 0, 0).spaces


class Episodes(NamedTuple):
    """One episode for each seed."""

    returns: Tensor  # (B,), the undiscounted sums of rewards, float64
    lengths: Tensor  # (B,) steps


@torch.no_grad()
def play(name: str, policy: Policy, seeds: Sequence[int]) -> Episodes:
    """Play one episode in a new environment for each of `seeds`, all stepped together, each to its end.

    Draws nothing from a random stream of training, as long as `policy` does not.
    """
    members = [Member(name, i, seed) for i, seed in enumerate(seeds)]
    playing = members
    while playing:
        actions = policy(torch.from_numpy(np.stack([member.observation for member in playing]))).cpu()
        _, _, terminated, truncated = move(playing, actions)
        playing = [member for member, *ends in zip(playing, terminated, truncated) if not any(ends)]
    for member in members:
        member.env.close()
    returns = torch.tensor([member.total for member in members], dtype=torch.float64)
    return Episodes(returns, torch.tensor([member.length for member in members], dtype=torch.int64))


class NegativeReturn(Metric):
    """Mean of `outputs["returns"]` with the other sign, so that it falls; NaN there stands for no episode."""

    def update(self, outputs: dict[str, Any]) -> None:
        if "returns" in outputs:
            returns = with_float64(outputs["returns"]).double()
            self.add(-returns.nansum(), (~returns.isnan()).sum())
