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
