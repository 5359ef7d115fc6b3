import json
import math
from pathlib import Path

import pytest

from dl.benchmarks import optimizers
from dl.modules.MLP.MLP.model import build
from dl.mytorch.data import synthetic


@pytest.mark.slow
def test_the_benchmark_records_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(optimizers, "image_splits", lambda config: synthetic.image_splits())
    out = tmp_path / "results" / "optimizers.json"
    names = ["SGD, momentum 0.9", "Muon"]
    optimizers.main(["--only", ";".join(names), "--epochs", "30", "--model", "tiny", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert list(record["best"]) == names and out.with_suffix(".png").exists()
    for name, run in record["best"].items():
        assert run["steps"] == [30, 60, 90, 120] and run["val_loss"][-1] < math.log(10)  # better than guessing
        assert run["val_loss"][-1] == min(record["val_loss_by_rate"][name].values())
    assert "| Muon |" in capsys.readouterr().out


def test_the_table_in_the_readme_is_the_recorded_one() -> None:
    ((path, _, table),) = optimizers.tables()
    assert table in path.read_text(encoding="utf-8")


def test_muon_has_the_hidden_matrices_and_another_the_rest() -> None:
    model = build("tiny")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices, others = (
        [names[id(p)] for group in o.param_groups for p in group["params"]] for o in optimizers.muon(model, 0.1)
    )
    assert matrices == ["hidden.fc1.weight", "hidden.fc2.weight"]
    assert sorted(matrices + others) == sorted(names.values())


def test_a_run_that_came_to_nothing_is_never_the_best() -> None:
    assert optimizers.last({"val_loss": [1.0, float("nan")]}) > optimizers.last({"val_loss": [9.0]})
