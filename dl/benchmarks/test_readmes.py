"""The benchmarks' tables in READMEs."""

import json
import shutil
from pathlib import Path

import pytest

from dl.benchmarks import readmes


def test_benchmark_tables_in_readmes_are_those_of_the_recorded_figures() -> None:
    for path, marker, table in readmes.tables():
        assert f"<!-- {marker} -->\n\n{table}\n\n<!-- /{marker} -->" in path.read_text(encoding="utf-8"), path


def test_a_table_has_medians_and_ratios_of_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(readmes.RESULTS, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(readmes, "RESULTS", tmp_path)
    record = json.loads((tmp_path / "bert-avx512.json").read_text(encoding="utf-8"))
    record["tokens_per_second"] |= {"transformers": [100.0, 300.0, 200.0], "Trainer": [100.0, 900.0, 500.0]}
    (tmp_path / "bert-avx512.json").write_text(json.dumps(record), encoding="utf-8")
    assert "| this network, `Trainer`, fp32 | 500 | 2.50 |" in readmes.speeds("Transformers/BERT")


def test_a_peer_that_was_not_measured_has_no_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readmes, "RESULTS", tmp_path)
    measured = {"training": {"transformers": [100.0], "ours": [110.0]}, "writing": {"llama.cpp": [50.0], "ours": [25.0]}}
    (tmp_path / "speed.json").write_text(json.dumps({"tokens_per_second": measured}), encoding="utf-8")
    assert readmes.language_models("speed").splitlines()[::2] == [
        "|  | transformers | llama.cpp | ours |",
        "| training | 100 |  | 110 (1.10) |",
    ]
