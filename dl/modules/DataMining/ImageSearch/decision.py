"""Whether an index knows an image: how far its features are from the nearest class of what is indexed.

The score is Mahalanobis's (Lee et al. 2018, see DataMining/OpenSet) with a shrunk covariance. Classes are the labels of the
index; where one of them has fewer than 10 images, all images together are one class.
"""

from collections import Counter
from typing import Any, Sequence

import torch
from torch import Tensor

from dl.modules.DataMining.mahalanobis import Mahalanobis
from dl.modules.DataMining.neighbours import Exact
from dl.modules.DataMining.threshold import quantile_threshold
from dl.mytorch.config import UserError

FITTED = 20_000  # rows at most that the score is fitted to
LEAST = 20  # images, below which nothing can be said
PER_CLASS = 10  # images, below which labels are not used
PARTS = 5


def classes(labels: Sequence[str]) -> Tensor:
    """Return the number of each label's class, (N,)."""
    counts = Counter(labels)
    if min(counts.values()) < PER_CLASS:
        return torch.zeros(len(labels), dtype=torch.long)
    numbers = {label: i for i, label in enumerate(sorted(counts))}
    return torch.tensor([numbers[label] for label in labels])


def fit(exact: Exact, labels: Sequence[str]) -> Mahalanobis:
    """Return the score, of rows evenly spread over the index."""
    return Mahalanobis(*_sample(exact, labels), shrink=True)


def threshold(exact: Exact, labels: Sequence[str], held_out: Tensor | None = None) -> dict[str, Any] | None:
    """Return the distance within which 95 % of known images are, and which these were; None for an index of too few images, or
    of images that are all the same.

    Known are the features `held_out` (N, D). Without them the rows of the index, a fifth after the other, by the score that
    is fitted to the other four. Raises `UserError` for held-out features that are not finite.
    """
    if len(labels) < LEAST:
        return None
    if held_out is not None and not held_out.isfinite().all():
        raise UserError("the features of a held-out image are not finite")
    try:
        if held_out is not None:
            distances, how = fit(exact, labels)(held_out), "held out"
        else:
            distances, how = _left_out(*_sample(exact, labels)), "of the index, each left out"
    except UserError:  # the features do not vary
        return None
    return {"distance": quantile_threshold(distances) ** 0.5, "pictures": len(distances), "how": how}


def _left_out(features: Tensor, numbers: Tensor) -> Tensor:
    """Return the score of each row (n, D) of these classes (n,), fitted to the rows of the other fifths."""
    part = torch.arange(len(numbers)) % PARTS
    scores = (Mahalanobis(features[part != i], numbers[part != i], shrink=True)(features[part == i]) for i in range(PARTS))
    return torch.cat(list(scores))


def _sample(exact: Exact, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return features (n, D) and classes (n,) of rows evenly spread."""
    rows = torch.arange(0, len(labels), -(-len(labels) // FITTED))
    return exact.rows(rows), classes(labels)[rows]
