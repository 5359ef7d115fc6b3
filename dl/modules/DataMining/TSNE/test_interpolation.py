"""The interpolated repulsion against that of all pairs."""

import pytest
import torch

from dl.modules.DataMining.TSNE import tsne as module
from dl.modules.DataMining.TSNE.interpolation import interpolated_repulsion
from dl.modules.DataMining.TSNE.testing import clusters
from dl.modules.DataMining.TSNE.tsne import kl_divergence, repulsion, similarities, tsne


@pytest.mark.parametrize(("scale", "tolerance"), [(1e-4, 1e-5), (1.0, 1e-3), (10.0, 0.05)])
def test_forces_are_nearly_those_of_all_pairs_on_small_and_large_maps(scale: float, tolerance: float) -> None:
    points = torch.randn(300, 2) * scale + 5
    force, total = repulsion(points.double() - points.double().mean(0))
    near, sum_ = interpolated_repulsion(points)
    assert sum_ == pytest.approx(total, rel=0.01)
    assert (near - force).norm() < tolerance * force.norm()


def test_a_point_alone_feels_nothing() -> None:
    force, total = interpolated_repulsion(torch.tensor([[3.0, 4.0]]))
    assert force.abs().max() < 1e-4 and total == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["EXACT", "FEW"])  # all steps are interpolated, or the first two thirds
def test_maps_are_as_good(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = clusters(90)
    pairs = similarities(features, 10.0)
    maps = []
    for largest in (10_000, 0):
        monkeypatch.setattr(module, name, largest)
        maps.append(tsne(features, 10.0, iterations=150, exaggerated=30))
    assert not torch.equal(*maps)
    assert kl_divergence(maps[1], pairs) < 1.02 * kl_divergence(maps[0], pairs)
