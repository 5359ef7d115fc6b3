import json
from pathlib import Path

import pytest

from dl.benchmarks import tar


@pytest.mark.slow
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tar.main(["--rounds", "1", "--samples", "300", "--workers", "1", "--out", str(tmp_path / "tar.json")])
    record = json.loads((tmp_path / "tar.json").read_text(encoding="utf-8"))
    assert len(record["samples_per_second"]) == 2 * len(tar.KINDS)
    for speeds in record["samples_per_second"].values():
        assert "ours" in speeds and all(len(own) == 1 and own[0] > 0 for own in speeds.values())
