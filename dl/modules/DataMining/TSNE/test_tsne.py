"""t-SNE: forces against autograd, similarities against the definition, maps against scikit-learn and openTSNE."""

import math
from typing import Callable

import pytest
import torch
from torch import Tensor

from dl.modules.DataMining.TSNE import tsne as module
from dl.modules.DataMining.TSNE.testing import clusters
from dl.modules.DataMining.TSNE.tsne import (
    Pairs,
    attraction,
    conditional,
    kl_divergence,
    place,
    principal,
    repulsion,
    similarities,
    start,
    tsne,
)
from dl.mytorch.testing.device import device_without_float64


def dense(pairs: Pairs, count: int) -> Tensor:
    matrix = torch.zeros(count, count, dtype=torch.float64)
    matrix[pairs.i, pairs.j] = pairs.p.double()
    return matrix


def test_every_row_has_the_perplexity_that_was_asked_for() -> None:
    squares = torch.rand(20, 40, dtype=torch.float64) * torch.logspace(-40, 40, 20, dtype=torch.float64)[:, None]
    p = conditional(squares, 7.0)
    entropy = -(p * p.log()).sum(1)
    torch.testing.assert_close(entropy.exp(), torch.full_like(entropy, 7.0), rtol=1e-6, atol=0)
    precision = (p[:, 0] / p[:, 1]).log() / (squares[:, 1] - squares[:, 0])  # Gaussians of one precision in a row
    torch.testing.assert_close((p[:, 2] / p[:, 3]).log(), precision * (squares[:, 3] - squares[:, 2]))


def test_similarities_are_symmetric_sum_to_1_and_leave_out_the_point_itself() -> None:
    features = torch.randn(40, 8)
    features[3] = features[7]  # twins
    matrix = dense(similarities(features, 5.0), 40)
    assert matrix.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(matrix, matrix.T) and not matrix.diag().any()
    assert ((matrix > 0).sum(1) >= 15).all()
    squares = torch.cdist(features.double(), features.double()).square()
    others = ~torch.eye(40, dtype=torch.bool)
    p = torch.zeros(40, 40, dtype=torch.float64)
    p[others] = conditional(squares[others].view(40, 39), 5.0).flatten()
    torch.testing.assert_close(dense(similarities(features, 5.0, neighbours=39), 40), (p + p.T) / 80, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("block", [2**19, 64])
def test_forces_are_the_gradient_of_the_divergence(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    features, _ = clusters(30)
    pairs = similarities(features, 5.0)
    points = (torch.randn(30, 2, dtype=torch.float64) * 3).requires_grad_()
    weights = 1 / (1 + torch.cdist(points, points).square())
    weights = weights - torch.eye(30) * weights.diag()
    p = dense(pairs, 30)
    divergence = (p * ((p.clamp_min(1e-300) / (weights / weights.sum()).clamp_min(1e-300)).log())).sum()
    (gradient,) = torch.autograd.grad(divergence, points)
    own = points.detach().float()
    force, total = repulsion(own)
    assert total == pytest.approx(weights.sum().item(), rel=1e-6)
    torch.testing.assert_close(4 * (attraction(own, pairs) - force / total).double(), gradient, rtol=1e-4, atol=1e-6)
    assert kl_divergence(own, pairs) == pytest.approx(divergence.item(), rel=1e-5)


def test_principal_components_are_those_of_the_decomposition() -> None:
    features = torch.randn(50, 6) * torch.tensor([1.0, 5, 2, 1, 1, 3]) + 7
    centred = features - features.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    found = principal(features)
    torch.testing.assert_close(found.abs(), (u * s)[:, :2].abs(), rtol=1e-4, atol=1e-4)
    for i in range(2):
        weights = torch.linalg.lstsq(centred, found[:, i : i + 1]).solution[:, 0]
        assert weights[weights.abs().argmax()] > 0


def test_clusters_come_apart_the_same_way_each_time_and_new_points_join_theirs() -> None:
    features, labels = clusters(90)
    points = tsne(features, perplexity=10.0, iterations=300, exaggerated=100)
    assert torch.equal(points, tsne(features, perplexity=10.0, iterations=300, exaggerated=100))
    nearest = torch.cdist(points, points).fill_diagonal_(math.inf).argmin(1)
    assert (labels[nearest] == labels).all()
    new, own = clusters(30, seed=1)
    found = place(points, features, new, perplexity=5.0)
    assert (labels[torch.cdist(found, points).argmin(1)] == own).all()
    again = place(points, features, features[:10], perplexity=5.0)
    spread = torch.pdist(points).mean()
    assert ((again - points[:10]).norm(dim=1) < 0.1 * spread).all()  # those of the map come near their places


def test_a_descent_lowers_the_divergence_further() -> None:
    features, _ = clusters(60)
    pairs = similarities(features, 10.0)
    values = [kl_divergence(tsne(features, 10.0, iterations=n, exaggerated=50), pairs) for n in (60, 120, 400)]
    assert values[0] > values[1] > values[2]


@pytest.mark.parametrize("perplexity", [1.0, 13.1])
def test_a_perplexity_that_the_points_cannot_have_is_refused(perplexity: float) -> None:
    with pytest.raises(ValueError, match="perplexity"):
        similarities(torch.randn(40, 3), perplexity)
    with pytest.raises(ValueError, match="finite"):
        similarities(torch.full((40, 3), math.nan), 5.0)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :1],
        lambda x: x * torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]),
        lambda x: x[:, :1] * torch.tensor([[1.0, 2, 3]]),
        lambda x: torch.full_like(x, 0.1),
        lambda x: torch.zeros_like(x),
    ],
    ids=["one feature", "the others are 0", "on a line", "all the same", "all 0"],
)
def test_features_of_one_direction_or_none_have_a_map_in_two(change: Callable[[Tensor], Tensor]) -> None:
    features = change(clusters(60)[0])
    points = tsne(features, 5.0, iterations=60, exaggerated=30)
    assert points.shape == (60, 2) and points.isfinite().all()
    assert points.std(0).amin() > 0.1 * points.std(0).amax()
    assert torch.equal(points, tsne(features, 5.0, iterations=60, exaggerated=30))
    assert place(points, features, features[:2], iterations=3).isfinite().all()


def test_the_map_of_a_single_feature_keeps_its_neighbours() -> None:
    values = torch.tensor([-1.0, 0.0, 1.0]).repeat(20)[:, None] + 0.01 * torch.randn(60, 1)
    points = tsne(values, 5.0, iterations=200, exaggerated=100)
    nearest = torch.cdist(points, points).fill_diagonal_(math.inf).argmin(1)
    assert torch.equal(values[nearest].round(), values.round())


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**-70, 2.0**-20, 2.0**60, 2.0**124])
def test_the_map_does_not_depend_on_the_scale(scale: float) -> None:
    features, _ = clusters(40)
    expected = tsne(features, 5.0, iterations=20)
    assert torch.equal(tsne(features * scale, 5.0, iterations=20), expected)
    placed = place(expected, features * scale, features[:2] * scale, iterations=5)
    assert torch.equal(placed, place(expected, features, features[:2], iterations=5))


def test_the_descent_begins_at_the_principal_components() -> None:
    features, _ = clusters(40)
    points = principal(features)
    torch.testing.assert_close(start(features), 1e-4 * points / points[:, 0].std())


def test_on_a_device_without_float64_the_map_is_the_same() -> None:
    features, _ = clusters(40)
    expected = tsne(features, 5.0, iterations=3)
    with device_without_float64() as device:
        there = features.to(device)
        points = tsne(there, 5.0, iterations=3)
        assert torch.equal(points, expected)
        placed = place(points.to(device), there, there, iterations=3)
        assert torch.equal(placed, place(points, features, features, iterations=3))
        assert kl_divergence(points.to(device), similarities(there, 5.0)) == kl_divergence(points, similarities(features, 5.0))


@pytest.mark.parametrize("features", [torch.randn(50), torch.zeros(50, 0), torch.full((50, 2), math.inf)])
def test_what_is_no_table_of_finite_features_is_refused(features: Tensor) -> None:
    with pytest.raises(ValueError, match="finite; got"):
        tsne(features, 5.0)


@pytest.mark.parity
def test_the_divergence_is_at_most_scikit_learn_s_and_the_map_as_trustworthy() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    features, _ = clusters(600, groups=6, size=20)
    pairs = similarities(features)
    theirs = torch.from_numpy(manifold.TSNE(init="pca", perplexity=30, random_state=0).fit_transform(features.numpy()))
    ours = tsne(features)
    assert kl_divergence(ours, pairs) <= kl_divergence(theirs, pairs) * 1.005
    trust = [manifold.trustworthiness(features.numpy(), points.numpy(), n_neighbors=10) for points in (ours, theirs)]
    assert trust[0] >= trust[1] - 0.005
