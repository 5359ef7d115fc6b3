"""How well a score separates unknown images from known ones. Higher scores mean less familiar.

All raise `ValueError` unless there is a score of each kind, and none is NaN.
"""

import torch
from torch import Tensor

from dl.mytorch.float64 import with_float64


def auroc(known: Tensor, unknown: Tensor) -> float:
    """Area under the ROC curve: the probability that an unknown image scores above a known one, equal ones by half."""
    scores = torch.cat(_checked(known, unknown))
    _, place, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1).double() / 2)[place]  # from 1, equal ones share the mean of theirs
    above = ranks[len(known) :].sum() - len(unknown) * (len(unknown) + 1) / 2
    return (above / (len(known) * len(unknown))).item()


def average_precision(negative: Tensor, positive: Tensor) -> float:
    """Area under precision over recall, as a sum over the thresholds from above: (gain in recall) * precision there."""
    scores = torch.cat(_checked(negative, positive))
    _, place, counts = torch.unique(-scores, return_inverse=True, return_counts=True)
    right = torch.bincount(place[len(negative) :], minlength=len(counts)).double()
    precision = right.cumsum(0) / counts.cumsum(0)
    return (precision * right).sum().item() / len(positive)


def aupr_out(known: Tensor, unknown: Tensor) -> float:
    """`average_precision` of finding the unknown."""
    return average_precision(known, unknown)


def aupr_in(known: Tensor, unknown: Tensor) -> float:
    """`average_precision` of finding the known."""
    return average_precision(-unknown, -known)


def fpr95(known: Tensor, unknown: Tensor) -> float:
    """Return the share of the unknown that is accepted where just 95 % of these known images are."""
    known, unknown = _checked(known, unknown)
    threshold = known.sort().values[-(-95 * len(known) // 100) - 1]
    return (unknown <= threshold).double().mean().item()


def _checked(known: Tensor, unknown: Tensor) -> list[Tensor]:
    """Return both in float64."""
    if not len(known) or not len(unknown) or known.isnan().any() or unknown.isnan().any():
        raise ValueError(f"one score or more of known and of unknown images, none NaN; got {len(known)} and {len(unknown)}")
    return [with_float64(scores).double() for scores in (known, unknown)]
