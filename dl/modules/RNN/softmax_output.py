"""The output layer of a language model: a probability for each of its words."""

from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers.sequential import sequential

# C width, V classes


class SoftmaxOutput(nn.Linear):
    """A logit for each class; with targets, their log-probabilities alone.

    forward: features (..., C) -> logits (..., V); with targets (...), their log-probabilities (...), 0 for a target below 0.
    """

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        logits = super().forward(features)
        if targets is None:
            return logits
        wanted = targets.clamp(min=0).flatten()
        loss = F.cross_entropy(logits.flatten(0, -2), wanted, reduction="none").view_as(targets)
        return -loss.masked_fill(targets < 0, 0.0)


class AdaptiveSoftmax(nn.Module):
    """Frequent classes are cheap (Grave et al. 2016, https://arxiv.org/abs/1609.04309).

    The first `cutoffs[0]` classes, and one for each cluster of rarer ones, share a softmax; a cluster has another one for
    its classes, of features with 1/4, 1/16 ... of the width. With targets, only the clusters that they are in are
    computed. The probabilities are exact and sum up to 1: nothing is sampled. Classes are numbered by falling frequency.

    forward: as `SoftmaxOutput`; without targets, log-probabilities of all classes in place of logits.
    """

    def __init__(self, dim: int, num_classes: int, cutoffs: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("cutoffs", torch.tensor(cutoffs), persistent=False)
        self.bounds = [*cutoffs, num_classes]
        self.head = nn.Linear(dim, cutoffs[0] + len(cutoffs), bias=False)
        self.tails = nn.ModuleList(
            sequential(
                narrow=nn.Linear(dim, dim // 4 ** (i + 1), bias=False),
                output=nn.Linear(dim // 4 ** (i + 1), self.bounds[i + 1] - self.bounds[i], bias=False),
            )
            for i in range(len(cutoffs))
        )

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        first = self.bounds[0]
        head = self.head(features).log_softmax(-1)  # (..., C) -> (..., first + clusters)
        if targets is None:
            rare = [tail(features).log_softmax(-1) + head[..., first + i, None] for i, tail in enumerate(self.tails)]
            return torch.cat([head[..., :first], *rare], dim=-1)  # (..., V)
        flat, wanted = features.flatten(0, -2), targets.clamp(min=0).flatten()  # (N, C), (N,)
        cluster = torch.bucketize(wanted, self.cutoffs, right=True)  # 0: in the head
        place = torch.where(cluster == 0, wanted, first + cluster - 1)
        result = head.flatten(0, -2).gather(1, place[:, None])[:, 0]
        for i, tail in enumerate(self.tails):
            rows = (cluster == i + 1).nonzero().flatten()
            inside = tail(flat[rows]).log_softmax(-1).gather(1, wanted[rows, None] - self.bounds[i])[:, 0]
            result = result.index_add(0, rows, inside)
        return result.view_as(targets).masked_fill(targets < 0, 0.0)
