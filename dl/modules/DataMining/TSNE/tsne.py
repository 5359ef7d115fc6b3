"""t-SNE: features in two dimensions, where neighbours stay neighbours.

"Visualizing Data using t-SNE", Laurens van der Maaten, Geoffrey Hinton, 2008,
https://www.jmlr.org/papers/v9/vandermaaten08a.html: the gradient of all pairs, in blocks that stay in the cache, so that
memory grows with the points and not with the pairs. Of more than 10,000 points the repulsion is interpolated, see
interpolation.py; of more than 3,000 in the first two thirds of the steps, which the last ones correct.

The start is the first two principal components, and the learning rate N / exaggeration: Kobak & Berens 2019,
https://doi.org/10.1038/s41467-019-13056-x. New points are placed into a map in the way of Policar, Strazar & Zupan 2023,
https://doi.org/10.1007/s10994-021-06043-1.

Deviations:
- Similarities are of the 3 * perplexity nearest neighbours only, as in van der Maaten 2014
  (https://jmlr.org/papers/v15/vandermaaten14a.html, section 4.1), unless `neighbours` says otherwise.
- Momentum is 0.8 from the start (there 0.5 at first), and exaggeration ends after 150 steps (there 50, with a factor of 4).

Where the device has no float64 (MPS), maps are computed on the CPU, and are there.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dl.modules.DataMining.neighbours import Exact
from dl.modules.DataMining.TSNE.interpolation import interpolated_repulsion
from dl.mytorch.float64 import with_float64

# N points, E pairs of neighbours

EXACT = 10_000  # points at most whose repulsion is summed over all pairs, at the end
FEW = 3_000  # points of which this is faster than any grid, from the start
BLOCK = 2**19  # pairs that the repulsion holds at a time: 2 MiB


class Pairs(NamedTuple):
    """The similarities p_ij, without those that are 0, in the order of i."""

    i: Tensor  # (E,)
    j: Tensor  # (E,)
    p: Tensor  # (E,), of sum 1
    ends: Tensor  # (N + 1,): the pairs of point i are those from ends[i] to ends[i + 1]


def conditional(squares: Tensor, perplexity: float) -> Tensor:
    """Return p_{j|i} (N, k) from squared distances (N, k) of each point to others, section 2: Gaussians of this perplexity.

    The precision of each is found by bisection. Rows whose distances are all equal become uniform.
    """
    squares = squares - squares.amin(1, keepdim=True)
    scale = squares.mean(1, keepdim=True)
    squares = squares / torch.where(scale > 0, scale, 1.0)
    low, high = torch.full_like(scale, 1e-6).log(), torch.full_like(scale, 1e9).log()
    for _ in range(50):
        middle = (low + high) / 2
        log_p = (-squares * middle.exp()).log_softmax(1)
        entropy = -(log_p.exp() * log_p).sum(1, keepdim=True)
        too_wide = entropy > math.log(perplexity)
        low, high = torch.where(too_wide, middle, low), torch.where(too_wide, high, middle)
    return (-squares * ((low + high) / 2).exp()).softmax(1)


def similarities(features: Tensor, perplexity: float = 30.0, neighbours: int = 0) -> Pairs:
    """p_ij = (p_{j|i} + p_{i|j}) / 2N of features (N, D), section 2, for each point's nearest; 0 = 3 * perplexity of them.

    Raises `ValueError` unless 3 * perplexity neighbours are there, or for features that are not finite.
    """
    count, features = len(features), _checked(features)
    if not 1 < perplexity <= (count - 1) / 3:
        raise ValueError(f"perplexity {perplexity:g}: above 1, and for {count} points at most {(count - 1) / 3:g}")
    k = neighbours or math.ceil(3 * perplexity)
    distances, rows = Exact(features).search(features, k + 1, "l2")
    itself = rows == torch.arange(count, device=rows.device)[:, None]
    itself[~itself.any(1), -1] = True  # of more than k equal ones, it matters not which is left out
    p = conditional(distances[~itself].view(count, k).square(), perplexity).flatten() / (2 * count)
    i, j = torch.arange(count, device=rows.device).repeat_interleave(k), rows[~itself]
    places = torch.stack([torch.cat([i, j]), torch.cat([j, i])])
    both = torch.sparse_coo_tensor(places, torch.cat([p, p]), check_invariants=True).coalesce()  # equal places are added up
    i, j = both.indices()
    ends = torch.nn.functional.pad(torch.bincount(i, minlength=count).cumsum(0), (1, 0))
    return Pairs(i, j, both.values().float(), ends)


def _checked(features: Tensor) -> Tensor:
    """Return features (N, D) on a device that has float64. Raises `ValueError` unless they are (N, D) and finite."""
    if features.ndim != 2 or not features.shape[1] or not features.isfinite().all():
        raise ValueError(f"features are (N, D) and finite; got {tuple(features.shape)}")
    return with_float64(features)


def principal(features: Tensor, dimensions: int = 2) -> Tensor:
    """Return the first principal components of features (N, D), (N, dimensions), each with its largest weight positive.

    Of fewer features than that there are fewer components.
    """
    features = with_float64(features)
    centred = features.double() - features.double().mean(0)
    _, _, axes = torch.linalg.svd(centred.T @ centred)
    axes = axes[:dimensions]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return (centred @ (axes * signs).T).float()


def start(features: Tensor) -> Tensor:
    """Return where the descent of features (N, D) begins, (N, 2): their principal components, the first with a std of 1e-4.

    Normal noise of that std takes the place of one in which they do not vary, as the second of a single feature: points
    on a line stay there, as all forces lie in it.
    """
    points = principal(features)
    deviations = points.double().std(0)
    least = max(1e-6 * deviations[0].item(), 1e-12 * features.abs().max().item())  # below it is rounding
    noise = 1e-4 * torch.randn(len(points), 2, generator=torch.Generator().manual_seed(0)).to(points.device)
    for i in range(points.shape[1]):
        if deviations[i] > least:
            noise[:, i] = points[:, i] / points[:, 0].std() * 1e-4
    return noise


# ---- the two forces ------------------------------------------------------------------------------------------------


def attraction(points: Tensor, pairs: Pairs) -> Tensor:
    """Return sum_j p_ij w_ij (y_i - y_j) with w = 1 / (1 + |y_i - y_j|^2), (N, 2)."""
    differences = [own[pairs.i] - own[pairs.j] for own in points.T.contiguous()]  # x and y apart: twice as fast
    weights = pairs.p / (1 + sum(difference.square() for difference in differences))
    sums = [torch.segment_reduce(weights * difference, "sum", offsets=pairs.ends) for difference in differences]
    return torch.stack(sums, 1)


def repulsion(points: Tensor) -> tuple[Tensor, float]:
    """Return sum_j w_ij^2 (y_i - y_j), (N, 2), and Z, the sum of w_ij over all pairs i != j."""
    squares, ones = points.square().sum(1, keepdim=True), torch.ones_like(points[:, :1])
    left = torch.cat([-2 * points, ones, 1 + squares], 1)  # left_i . right_j = 1 + |y_i - y_j|^2
    right = torch.cat([points, squares, ones], 1).T.contiguous()
    x, y = points.T.contiguous()
    force, total, rows = [], 0.0, max(1, BLOCK // len(points))
    room = points.new_empty(min(rows, len(points)), len(points))  # once: new memory costs as much as the product
    for own in left.split(rows):
        weights = torch.mm(own, right, out=room[: len(own)]).clamp_min_(1).reciprocal_()  # (rows, N)
        total += weights.sum(1).sum(dtype=torch.float64).item()  # all in float64 would take as long as the product
        weights.square_()
        force.append(torch.stack([weights.sum(1), weights @ x, weights @ y], 1))  # two products with vectors: the fastest
    sums = torch.cat(force)  # (N, 3)
    return points * sums[:, :1] - sums[:, 1:], total - len(points)


def kl_divergence(points: Tensor, pairs: Pairs) -> float:
    """Return sum_ij p_ij log(p_ij / q_ij), section 2: what is minimised, with the exact Z."""
    points = with_float64(points)
    total = repulsion(points)[1]
    squares = (points[pairs.i] - points[pairs.j]).double().square().sum(1)
    p = pairs.p.double()
    return (p * (p.clamp_min(1e-300).log() + (1 + squares).log() + math.log(total))).sum().item()


# ---- the descent ---------------------------------------------------------------------------------------------------


def tsne(
    features: Tensor,
    perplexity: float = 30.0,
    iterations: int = 1000,
    exaggeration: float = 12.0,
    exaggerated: int = 150,
    neighbours: int = 0,
) -> Tensor:
    """Return a map (N, 2) of features (N, D). The same features give the same map.

    Args:
        exaggeration: factor of all p_ij in the first `exaggerated` of the `iterations`, section 3.4.
        neighbours: of each point that have a similarity to it; 0 = 3 * perplexity. N - 1 is the paper's.

    Raises `ValueError` for a perplexity too large for N, and for features that are not (N, D) and finite.
    """
    features = _checked(features)
    features = features / _power_of_two(features)
    pairs = similarities(features, perplexity, neighbours)
    points = start(features)
    rate = max(len(points) / exaggeration, 50.0)
    velocity, gains = torch.zeros_like(points), torch.ones_like(points)
    for step in range(iterations):
        factor = exaggeration if step < exaggerated else 1.0
        interpolated = len(points) > EXACT or (len(points) > FEW and step < 2 * iterations // 3)
        force, total = (interpolated_repulsion if interpolated else repulsion)(points)
        gradient = factor * attraction(points, pairs) - force / total  # equation 5, but for its 4, which `rate` holds
        gains = torch.where(gradient * velocity < 0, gains + 0.2, gains * 0.8).clamp_min_(0.01)  # Jacobs 1988
        velocity = 0.8 * velocity - rate * gains * gradient
        points = points + velocity
        points = points - points.mean(0)
    return points


def place(points: Tensor, features: Tensor, new: Tensor, perplexity: float = 5.0, iterations: int = 100) -> Tensor:
    """Return places (M, 2) of new features (M, D) in the map `points` (N, 2) of `features` (N, D), which stays as it is.

    Each starts at the mean of its neighbours, weighted by similarity, and descends the divergence of its own p_{j|i} from
    q_{j|i}: new points do not see each other. Raises `ValueError` for a perplexity too large for N, and for features that
    are not finite.
    """
    points, features, new = with_float64(points), _checked(features), _checked(new)
    scale = _power_of_two(features)
    features, new = features / scale, new / scale
    if not 1 < perplexity <= len(features) / 3:
        raise ValueError(f"perplexity {perplexity:g}: above 1, and for {len(features)} points at most {len(features) / 3:g}")
    distances, rows = Exact(features).search(new, math.ceil(3 * perplexity), "l2")
    p = conditional(distances.square(), perplexity).float()  # (M, k)
    near = points[rows]  # (M, k, 2)
    found = (p[..., None] * near).sum(1)
    velocity = torch.zeros_like(found)
    for _ in range(iterations):
        difference = found[:, None] - near
        pull = (difference * (p / (1 + difference.square().sum(-1)))[..., None]).sum(1)
        weights = 1 / (1 + torch.cdist(found, points).square())  # (M, N)
        squares = weights.square()
        push = (found * squares.sum(1, keepdim=True) - squares @ points) / weights.sum(1, keepdim=True)
        gradient = pull - push
        velocity = 0.8 * velocity - 0.1 * gradient / gradient.norm(dim=1, keepdim=True).clamp_min(0.25) * 0.25
        found = found + velocity
    return found


def _power_of_two(features: Tensor) -> float:
    """Return the scale of features (N, D): divided by it they are at most 2, and have the same digits."""
    return 2.0 ** (math.frexp(features.abs().max().item())[1] - 1)
