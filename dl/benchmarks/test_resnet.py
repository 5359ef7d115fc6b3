import json
from pathlib import Path

import pytest

from dl.benchmarks import resnet


@pytest.mark.slow
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "results" / "resnet.json"
    resnet.main(["--rounds", "1", "--batch-size", "2", "--only", "by hand,Trainer,+ both", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "load_average", "versions"} < record.keys()
    assert record["images_per_second"].keys() == {"torchvision", "by hand", "Trainer", "+ both"}
    assert all(len(speeds) == 1 and speeds[0] > 0 for speeds in record["images_per_second"].values())
    assert "torchvision" in capsys.readouterr().out


def test_ratios_are_taken_within_a_round() -> None:
    table = resnet.table({"torchvision": [10.0, 20.0, 40.0], "by hand": [20.0, 10.0, 80.0]})
    assert table.splitlines()[2].split() == ["by", "hand", "20.0", "(10", "-", "80)", "2.00"]
