import json
from pathlib import Path

import pytest

from dl.benchmarks import search


@pytest.mark.slow
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    search.main(["--rounds", "1", "--vectors", "500", "--out", str(tmp_path / "search.json")])
    record = json.loads((tmp_path / "search.json").read_text(encoding="utf-8"))
    assert list(record["queries_per_second"]) == list(search.TASKS)
    for speeds in record["queries_per_second"].values():
        assert {"plain torch", "ours"} <= speeds.keys() and all(len(own) == 1 and own[0] > 0 for own in speeds.values())
