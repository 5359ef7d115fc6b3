"""The approximate search against the exact one."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dl.modules.DataMining.ImageSearch.approximate import KINDS, Approximate, build
from dl.modules.DataMining.neighbours import Exact

pytestmark = pytest.mark.parity


def clusters(count: int, seed: int) -> Tensor:
    """Points of 32 numbers around 200 centres."""
    centres = 3 * torch.randn(200, 32, generator=torch.Generator().manual_seed(9))
    generator = torch.Generator().manual_seed(seed)
    return centres[torch.randint(200, (count,), generator=generator)] + torch.randn(count, 32, generator=generator)


def test_nearly_all_neighbours_are_found_with_their_exact_distances(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    exact = Exact(clusters(20_000, 0).split(7000))
    files = {kind: tmp_path / f"{kind}.faiss" for kind in KINDS}
    for kind, path in files.items():
        build(exact, kind, path)
    search, queries = Approximate(exact, files), clusters(100, 1)
    for distance, least in (("l2", 0.99), ("cosine", 0.99), ("l1", 0.95), ("dot", 1.0)):
        distances, rows = search.search(queries, 5, distance)
        expected, wanted = exact.search(queries, 5, distance)
        same = rows == wanted
        assert same.double().mean() >= least, distance
        torch.testing.assert_close(distances[same], expected[same], rtol=1e-12, atol=1e-12)
    assert torch.equal(search.search(queries[:1], 20_000, "l2")[1], exact.search(queries[:1], 20_000, "l2")[1])


def test_few_vectors_are_one_cell(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    exact = Exact(torch.randn(9, 4))
    build(exact, "l2", tmp_path / "few")
    found = Approximate(exact, {"l2": tmp_path / "few"}).search(torch.randn(2, 4), 20, "l1")
    assert found[1].shape == (2, 9) and (found[1].sort().values == torch.arange(9)).all()
