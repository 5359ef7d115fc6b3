import json
from pathlib import Path

import pytest

from dl.benchmarks import trainer


@pytest.mark.slow
def test_the_quick_benchmark_records_what_it_measured(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "results" / "trainer.json"
    trainer.main(["--quick", "--only", "ours,floor,torchvision", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "load_average", "versions"} < record.keys()
    assert (record["data"], record["rounds"], record["steps"], record["batch_size"]) == ("fashion_mnist-sample", 1, 20, 128)
    assert record["results"].keys() == {"ours", "floor", "torchvision"}
    for result in record["results"].values():
        assert [measured["examples"] for measured in result["rounds"]] == [20 * 128]
        assert result["lowest"] == result["samples_per_second"] == result["highest"] > 0
        assert result["peak_memory_bytes"] > 0
    assert record["results"]["floor"]["ratio_to_floor"] == 1
    assert "torchvision" in capsys.readouterr().out


def test_ratios_are_taken_within_a_round() -> None:
    def rounds(*seconds: float) -> list[dict[str, float]]:
        return [{"examples": 100, "seconds": s, "peak_memory_bytes": 50} for s in seconds]

    # the third round is slow for both: medians of speeds alone would say 1/1
    result = trainer.summarize(rounds(2, 4, 40), rounds(1, 4, 10))
    assert result["samples_per_second"] == 25
    assert result["ratio_to_floor"] == 0.5
    assert result["memory_ratio_to_floor"] == 1


def test_a_package_that_is_not_there_is_said_in_the_table() -> None:
    assert trainer.MISSING in trainer.table({"lightning": {"missing": trainer.MISSING}})
