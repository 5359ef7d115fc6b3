"""How far apart two sets of points are, as normal distributions.

Heusel et al. 2017, https://arxiv.org/abs/1706.08500, equation 6.
"""

import torch
from torch import Tensor

from dl.mytorch.float64 import with_float64


def frechet_distance(real: Tensor, drawn: Tensor) -> float:
    """|m - m'|^2 + tr(S + S' - 2 (S S')^1/2) of features (N, D) and (M, D), with N and M at least 2."""
    real, drawn = (with_float64(features).double() for features in (real, drawn))
    return frechet_distance_of_moments(real.mean(0), real.T.cov(), drawn.mean(0), drawn.T.cov())


def frechet_distance_of_moments(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    """Return the same of means (D,) and covariances (D, D).

    The trace of the root is that of (S^1/2 S' S^1/2)^1/2, which is symmetric: its eigenvalues are real and not negative.
    """
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ other_covariance @ root).clamp_min(0).sqrt().sum()
    distance = (mean - other_mean).square().sum() + covariance.trace() + other_covariance.trace() - 2 * cross
    return distance.item()
