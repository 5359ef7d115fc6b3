import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import common, layers


def test_the_table_in_the_readme_is_the_recorded_one() -> None:
    record = json.loads((common.RESULTS / "layers.json").read_text(encoding="utf-8"))
    assert list(record["seconds"]) == list(layers.REASONS)
    ((path, _, table),) = layers.tables()
    assert table in path.read_text(encoding="utf-8")


def test_the_table_has_medians_and_the_ratio_of_each_round() -> None:
    line = layers.table({"ReLU": [(0.004, 0.001), (0.002, 0.001), (0.009, 0.003)]}).splitlines()[2]
    assert line == f"| ReLU | 1.00 | 4.00 | 3.0 | {layers.REASONS['ReLU']} |"


@pytest.mark.slow
def test_both_sides_of_every_pair_give_the_same_and_what_is_measured_is_recorded(tmp_path: Path) -> None:
    small = {**layers.image_cases(), **layers.token_cases()}
    for name, (own, twin) in small.items():
        torch.manual_seed(0)
        x = torch.randn(2, 64, 28, 28) if name in layers.image_cases() else torch.randn(2, 3, 256)
        results = []
        for side in (own, twin):
            torch.manual_seed(1)
            results.append(side(x))
        torch.testing.assert_close(*results, rtol=0, atol=1e-4)
    out = tmp_path / "results" / "layers.json"
    layers.main(["--rounds", "1", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert list(record["seconds"]) == list(layers.REASONS)
    assert all(own > 0 and twin > 0 for ((own, twin),) in record["seconds"].values())
