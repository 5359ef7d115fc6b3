import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import precision
from dl.modules.Linear.LinearRegression.train import Config as LinearRegression


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CNN/LeNet", "RNN/TextCNN", "Transformers/BERT"])
def test_the_benchmark_records_what_it_measured(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "precision.json"
    out.write_text('{"results": {"of": "another"}}', encoding="utf-8")
    monkeypatch.setattr(precision, "table", lambda results: str(sorted(results)))
    precision.main([name, "--rounds", "2", "--steps", "1", "--keep", "--out", str(out)])
    record = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "commit", "device", "processor", "capability", "auto", "why"} < record.keys()
    speeds = record["results"][name]["examples_per_second"]
    assert speeds.keys() == {"auto", "fp32", "bf16"} | ({"other"} if name == "CNN/LeNet" else set())
    assert speeds["auto"] == speeds[record["auto"]] and len(speeds["fp32"]) == 2
    assert len(speeds["bf16"]) == (2 if record["auto"] == "bf16" else 1)
    assert record["results"]["of"] == "another" and str(sorted([name, "of"])) in capsys.readouterr().out


def test_a_step_is_that_of_the_recipe_with_a_rate_of_0(tmp_path: Path) -> None:
    trainer, data = precision.made("Linear/LinearRegression", str(tmp_path), precision="fp32")
    assert trainer.config.batch_size == LinearRegression().batch_size and not (tmp_path / "config.json").exists()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    step, items = precision.one_step(trainer, data)
    step()
    assert items == trainer.config.batch_size and trainer.step.train_metrics.compute()["loss"] > 0
    assert all(torch.equal(before[name], weight) for name, weight in trainer.model.state_dict().items())


def test_the_table_has_auto_beside_the_better_precision_and_the_layouts_side_by_side() -> None:
    speeds = {"fp32": [10.0, 20.0, 40.0], "bf16": [5.0], "other": [20.0, 10.0, 80.0], "auto": [10.0, 20.0, 40.0]}
    found = {"default_precision": "auto", "channels_last": True, "examples_per_second": speeds}
    row = precision.table({"CNN/X": found}).splitlines()[1].split()
    assert row == ["CNN/X", "auto", "20.0", "20.0", "5.0", "1.00", "channels_last", "2.00"]
