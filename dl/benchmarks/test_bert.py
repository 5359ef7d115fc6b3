import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import bert


@pytest.mark.parity
def test_the_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("transformers")
    out = tmp_path / "results" / "bert.json"
    bert.main(["--rounds", "1", "--batch-size", "2", "--length", "8", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "load_average", "versions"} < record.keys()
    assert record["tokens_per_second"].keys() == set(bert.NAMES)
    assert all(len(speeds) == 1 and speeds[0] > 0 for speeds in record["tokens_per_second"].values())
    assert "of transformers" in capsys.readouterr().out


def test_every_contender_has_the_same_masked_tokens() -> None:
    batch = bert.pairs(rows=3, length=20)
    masked = batch["tokens"] == bert.MASK
    assert masked.sum(1).tolist() == [3, 3, 3] and (batch["targets"] != bert.MASK).all()
    assert torch.equal(masked.nonzero()[:, 1].view(3, 3), batch["positions"].sort(1).values)
