import json
from pathlib import Path

import pytest

from dl.benchmarks import graphs


def test_a_row_has_mean_std_seconds_and_the_ratio_of_seconds() -> None:
    found = {"errors": [0.2, 0.18], "seconds": {"ours": [2.0, 2.0], "torch_geometric": [20.0, 20.0]}}
    assert (
        graphs.line("GCN", "cora", found)
        == "GCN  cora       81.00 ± 1.41 % right, 2 seeds,    2.0 s, 0.10 of torch_geometric's"
    )
    assert graphs.line("GAT", "cora", {"errors": [0.2], "seconds": {"ours": [2.0], "torch_geometric": []}}).endswith("2.0 s")


@pytest.mark.parity
def test_runs_of_both_are_timed(tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric")
    out = tmp_path / "graphs.json"
    options = graphs.parse(["--seeds", "1", "--peer-epochs", "1", "--models", "GCN", "--out", str(out)])
    found = graphs.measured("GCN", "karate", options)
    assert len(found["errors"]) == 1 and len(found["seconds"]["torch_geometric"]) == 1
    assert json.dumps(found)
