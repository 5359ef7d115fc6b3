"""Where "known" ends: thresholds from images that are known and were not trained on.

Scores rise with the doubt: an image is accepted as known when its score is at most the threshold.
"""

import math

from torch import Tensor


def quantile_threshold(scores: Tensor, accepted: float = 0.95) -> float:
    """Return the smallest score (N,) that accepts at least this share of the held-out known images."""
    _check(scores, accepted)
    return scores.sort().values[math.ceil(accepted * len(scores) - 1e-9) - 1].item()


def conformal_threshold(scores: Tensor, accepted: float = 0.95) -> float:
    """Return the split-conformal threshold (Vovk, Gammerman & Shafer 2005; Lei et al. 2018, https://arxiv.org/abs/1604.04173,
    section 2.2, theorem 2): the ceil((n + 1) * accepted)-th smallest score (N,), infinity where there are too few.

    Of known images exchangeable with the held-out ones, it accepts at least this share on average over the draw of the
    held-out set, and, without ties, at most 1 / (n + 1) more: for any network and any score.
    """
    _check(scores, accepted)
    place = math.ceil((len(scores) + 1) * accepted - 1e-9)
    return scores.sort().values[place - 1].item() if place <= len(scores) else math.inf


def _check(scores: Tensor, accepted: float) -> None:
    if scores.ndim != 1 or not len(scores) or not 0 < accepted < 1 or scores.isnan().any():
        got = f"got {tuple(scores.shape)}, {accepted}"
        raise ValueError(f"scores (N,) of one image or more, none NaN, and a share between 0 and 1; {got}")
