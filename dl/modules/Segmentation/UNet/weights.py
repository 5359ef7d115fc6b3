"""The weight of each pixel in the loss: equation 2 of the paper, which makes the network learn the borders between cells."""

import math

import torch
from torch import Tensor

from dl.modules.Segmentation.components import components, two_nearest
from dl.mytorch.data.images.windows import IGNORE


def border_weights(mask: Tensor, w0: float = 10.0, sigma: float = 5.0) -> Tensor:
    """Return w0 exp(-(d1 + d2)^2 / (2 sigma^2)) for the background of a mask (H, W), and 0 inside cells. (H, W), float32.

    d1 and d2 are the distances in pixels to the nearest and to the second nearest cell. Background is class 0; a cell is a
    connected component of what has another class. Where there are no two cells, the weight is 0.
    """
    cells = components((mask != 0) & (mask != IGNORE))
    reach = math.ceil(sigma * math.sqrt(2 * math.log(1e13)))  # what is farther away adds less than 1e-12
    one, other = two_nearest(cells, reach)
    weights = w0 * torch.exp(-((one + other) ** 2) / (2 * sigma**2))
    return torch.where(cells > 0, 0.0, weights).float()


def class_weights(mask: Tensor) -> Tensor:
    """Return w_class (H, W): all classes that a mask (H, W) has get the same sum of weights, and the mean is 1."""
    counts = torch.bincount(mask[mask != IGNORE].long(), minlength=256)
    weights = counts.sum() / (counts.clamp(min=1) * (counts > 0).sum())
    return weights[mask.long()]
