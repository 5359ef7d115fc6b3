import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import tsne
from dl.cli.testing import make_run


@pytest.mark.slow
def test_the_benchmark_records_what_it_measured(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "CNN/ResNet")
    words = ["--weights", run, "--data", "fashion_mnist-sample", "--points", 120, "--out", tmp_path / "tsne.json"]
    tsne.main([str(word) for word in words])
    record = json.loads((tmp_path / "tsne.json").read_text(encoding="utf-8"))
    assert record["points"] == 120 and "ours" in record["maps"]
    assert all(0 < own["trustworthiness"] <= 1 and own["seconds"] > 0 for own in record["maps"].values())


def test_a_map_that_keeps_all_neighbours_is_trustworthy_and_a_shuffled_one_is_not() -> None:
    points = torch.randn(100, 2)
    assert tsne.trustworthiness(points, 3 * points) == 1
    assert tsne.trustworthiness(points, points[torch.randperm(100)]) < 0.7


@pytest.mark.parity
def test_trustworthiness_is_scikit_learn_s() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    features, points = torch.randn(80, 9), torch.randn(80, 2)
    expected = manifold.trustworthiness(features.numpy(), points.numpy(), n_neighbors=10)
    assert tsne.trustworthiness(features, points) == pytest.approx(expected, abs=1e-9)
