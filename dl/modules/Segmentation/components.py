"""Connected components of masks, and how far each pixel is from the two nearest ones."""

import numpy as np
import torch
from torch import Tensor

FAR = 2**30  # squared distance of a component that was not found
NUMBERS = 2**24  # components have smaller numbers


def components(mask: Tensor) -> Tensor:
    """Return the component of each pixel that is set in `mask` (H, W), counted from 1; 0 elsewhere. (H, W), int64.

    Pixels are neighbours that share an edge. Each joins the smallest of its neighbours, until all in a component agree.
    """
    height, width = mask.shape
    places = torch.arange(height * width).view(height, width)
    right, down = mask[:, :-1] & mask[:, 1:], mask[:-1] & mask[1:]
    first = torch.cat([places[:, :-1][right], places[:-1][down]])
    second = torch.cat([places[:, 1:][right], places[1:][down]])
    parent = places.flatten().clone()
    while True:
        one, other = parent[first], parent[second]
        if torch.equal(one, other):
            break
        parent.scatter_reduce_(0, torch.maximum(one, other), torch.minimum(one, other), "amin")
        while not torch.equal(grandparent := parent[parent], parent):
            parent = grandparent
    found = torch.zeros(height * width, dtype=torch.int64)
    inside = mask.flatten()
    found[inside] = parent[inside].unique(return_inverse=True)[1] + 1
    return found.view(height, width)


def two_nearest(instances: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return the distances (H, W) in pixels to the nearest component and to the nearest other one; float64.

    `instances` (H, W) has 0 where no component is. One more than `reach` rows or columns away may count as infinitely far.

    Squared distances are sums over the axes, so the two nearest along each column, then along each row, are the two nearest.
    A distance and its component are one number, squared distance * NUMBERS + component, of which the smallest is wanted.
    """
    here = instances.numpy().astype(np.int64)
    nearest = np.where(here > 0, here, FAR * NUMBERS)
    second = np.full_like(nearest, FAR * NUMBERS)
    for axis in (0, 1):
        nearest, second = _along(nearest, second, axis, min(reach, here.shape[axis] - 1))
    squares = (torch.from_numpy(keys // NUMBERS).double() for keys in (nearest, second))
    one, other = (torch.where(square < FAR, square.sqrt(), torch.inf) for square in squares)
    return one, other


def _along(nearest: np.ndarray, second: np.ndarray, axis: int, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two smallest keys of different components among those up to `reach` pixels away along an axis."""
    best, next_best = nearest.copy(), second.copy()
    for offset in range(1, reach + 1):
        for sign in (1, -1):
            target, source = [slice(None)] * 2, [slice(None)] * 2
            target[axis], source[axis] = slice(offset, None), slice(None, -offset)
            if sign < 0:
                target, source = source, target
            target, source = tuple(target), tuple(source)
            farther = offset**2 * NUMBERS
            one, other = nearest[source] + farther, second[source] + farther
            mine, my_next = best[target], next_best[target]
            winner, loser = np.minimum(mine, one), np.maximum(mine, one)
            same = mine % NUMBERS == one % NUMBERS  # then the loser is no other component
            after = np.minimum(loser, np.where(mine < one, my_next, other))
            best[target], next_best[target] = winner, np.where(same, np.minimum(my_next, other), after)
    return best, next_best
