"""The repulsion of many points, in a time that grows with the points and the area of the map, not with the pairs.

"Fast interpolation-based t-SNE for improved visualization of single-cell RNA-seq data", George Linderman, Manas Rachh,
Jeremy Hoskins, Stefan Steinerberger, Yuval Kluger, 2019, https://doi.org/10.1038/s41592-018-0308-4: points hand their
charges to the nodes of a regular grid by Lagrange polynomials, a Fourier transform convolves them with the kernel, and
the same polynomials bring the potentials back to the points.
"""

import math

import torch
from torch import Tensor

# N points, n nodes along each side of the grid

NODES = 3  # along the side of a box, as in the paper
WIDTH = 1.0  # of a box at most, where the kernel is as wide
BOXES = 50  # along each side at least


def interpolated_repulsion(points: Tensor) -> tuple[Tensor, float]:
    """sum_j w_ij^2 (y_i - y_j), (N, 2), and Z, the sum of w_ij over all pairs i != j: as `tsne.repulsion`, nearly."""
    points = points - points.mean(0)
    low = points.amin(0)
    extent = max((points.amax(0) - low).amax().item(), 1e-12)
    boxes = _fast_size(max(BOXES, math.ceil(extent / WIDTH)))
    n, spacing = boxes * NODES, extent / (boxes * NODES)
    weights, nodes = _weights((points - low) / spacing, boxes)
    charges = torch.cat([torch.ones_like(points[:, :1]), points], 1)  # (N, 3): 1, x, y
    handed = (weights[..., None] * charges[:, None]).flatten(0, 1)  # (9N, 3)
    grid = torch.zeros(n * n, 3, device=points.device).index_add_(0, nodes.flatten(), handed)
    first, second = _kernels(n, spacing, points.device)
    waves = torch.fft.rfft2(grid.T.reshape(3, n, n), s=(2 * n, 2 * n))  # twice the size: the ends do not meet
    waves = torch.cat([waves[:1] * first, waves * second])  # w by 1; w^2 by 1, x, y
    potentials = torch.fft.irfft2(waves, s=(2 * n, 2 * n))[:, :n, :n].reshape(4, n * n).T
    near = (potentials[nodes] * weights[..., None]).sum(1)  # (N, 4)
    return points * near[:, 1:2] - near[:, 2:], near[:, 0].sum(dtype=torch.float64).item() - len(points)


def _weights(places: Tensor, boxes: int) -> tuple[Tensor, Tensor]:
    """Return what each of the 9 nodes of a point's box counts for it, (N, 9), and their numbers, (N, 9).

    `places` are in nodes.
    """
    box = (places / NODES).long().clamp_(0, boxes - 1)  # (N, 2)
    t = places - box * NODES - 0.5  # the nodes of a box are at 0, 1, 2
    along = torch.stack([(t - 1) * (t - 2) / 2, t * (2 - t), t * (t - 1) / 2], 2)  # (N, 2, 3), Lagrange's
    weights = along[:, 0, :, None] * along[:, 1, None, :]  # (N, 3, 3)
    numbers = box[..., None] * NODES + torch.arange(NODES, device=places.device)  # (N, 2, 3)
    nodes = numbers[:, 0, :, None] * (boxes * NODES) + numbers[:, 1, None, :]
    return weights.flatten(1), nodes.flatten(1)


def _kernels(n: int, spacing: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the transforms of w and w^2, w = 1 / (1 + d^2), between nodes of a grid of twice the size whose ends meet."""
    steps = torch.arange(2 * n, device=device)
    squares = (torch.minimum(steps, 2 * n - steps) * spacing).square()
    kernel = 1 / (1 + squares[:, None] + squares)
    return torch.fft.rfft2(kernel), torch.fft.rfft2(kernel.square())


def _fast_size(boxes: int) -> int:
    """Return the next number without prime factors above 5: Fourier transforms of other sizes are slow."""
    rest = boxes
    for prime in (2, 3, 5):
        while rest % prime == 0:
            rest //= prime
    return boxes if rest == 1 else _fast_size(boxes + 1)
