"""How far features are from the nearest class, under the covariance that all classes share: for ImageSearch and OpenSet."""

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.float64 import with_float64

# N images, C classes, D features


def double(values: Tensor) -> Tensor:
    """Return values (N, ...) in float64. Raises `UserError` if there are none, or one is not finite."""
    if not values.numel() or not values.isfinite().all():
        found = "none" if not values.numel() else f"{int((~values.isfinite()).sum())} of {values.numel()} are NaN or infinite"
        raise UserError(f"scores take features and logits of one image or more, all finite; {found}")
    return with_float64(values).double()


class Mahalanobis:
    """Squared distance to the nearest class mean under the covariance that all classes share.

    Lee et al. 2018, https://arxiv.org/abs/1807.03888, equations 1 and 2; of one layer, without the change of the input
    (section 2.2) and the ensemble of layers. Directions in which the training features do not vary are left out.

    `shrink`, not of the paper, is for few images: the covariance moves towards a multiple of the identity by the share
    that is best on average, Ledoit & Wolf 2004, https://doi.org/10.1016/S0047-259X(03)00096-4.

    Raises `UserError` for features that are not finite, or vary in no direction within their classes.
    """

    def __init__(self, features: Tensor, labels: Tensor, shrink: bool = False) -> None:
        features, labels = double(features), with_float64(labels)
        self.means = torch.stack([features[labels == label].mean(0) for label in labels.unique()])  # (C, D)
        centred = features - self.means[torch.unique(labels, return_inverse=True)[1]]
        covariance = centred.T @ centred / len(features)
        if shrink:
            covariance = shrunk(covariance, centred)
        noise = (1e-14 * features.abs().amax()).square()  # of means that are rounded
        self.precision = torch.linalg.pinv(covariance, atol=noise, rtol=1e-10, hermitian=True)  # (D, D)
        if not self.precision.any():
            raise UserError(f"{len(features)} training features do not vary within their classes: no distance has a scale")

    def __call__(self, features: Tensor) -> Tensor:
        features = double(features)
        differences = (features - mean for mean in self.means)  # (N, D) each
        return torch.stack([((own @ self.precision) * own).sum(-1) for own in differences]).amin(0)


def shrunk(covariance: Tensor, centred: Tensor) -> Tensor:
    """(1 - a) covariance + a m I with Ledoit & Wolf's a, equation 14, of centred features (N, D); m is the mean variance."""
    target = covariance.diag().mean() * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    away = (covariance - target).square().sum()
    uncertain = (centred.square().sum(1).square().mean() - covariance.square().sum()) / len(centred)
    share = (uncertain / away.clamp_min(1e-300)).clamp(0, 1)
    return (1 - share) * covariance + share * target
