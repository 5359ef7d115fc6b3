"""What a run writes of how it went. What TensorBoard reads of it is in test_charts.py."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch import StepOutput, logger
from dl.mytorch.config import TrainConfig
from dl.mytorch.files import read_json
from dl.mytorch.logger import History, Logger, device_name, peak_memory

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Config(TrainConfig):
    data: str = "numbers"
    act: str = "relu"


def record(step: int, train: float, val: float) -> dict[str, Any]:
    return {
        "epoch": step // 10,
        "step": step,
        "lr": 0.1,
        "train": {"loss": train, "top1_error": train / 10},
        "val": {"loss": val, "top1_error": val / 10},
    }


HISTORY = History([record(10, 2.0, 1.5), record(20, 1.0, 0.5), record(30, 0.5, 0.5), record(40, 0.4, 0.9)])
TEST = {"epoch": 2, "step": 20, "test": {"loss": 0.625, "top1_error": 0.0525}}


# ---- history ---------------------------------------------------------------------------------------------------------


def test_the_best_record_is_the_first_of_the_lowest() -> None:
    assert HISTORY.best() is HISTORY[1]
    assert HISTORY.best("top1_error") is HISTORY[1]
    assert History([*HISTORY, TEST]).best() is HISTORY[1]  # the test chooses nothing
    assert History().best() is None


def test_the_test_is_the_last_record() -> None:
    assert History().test is None and HISTORY.test is None
    assert History([*HISTORY, TEST]).test == {"loss": 0.625, "top1_error": 0.0525}


def test_a_record_reads_as_a_line() -> None:
    line = HISTORY.line()
    assert line == "epoch   4 | step     40 | train  loss 0.4000  top1_error 4.00% | val  loss 0.9000  top1_error 9.00%"
    assert History([TEST]).line() == "epoch   2 | step     20 | test  loss 0.6250  top1_error 5.25%"


def test_the_table_is_of_the_best_checkpoint() -> None:
    lines = History([*HISTORY, TEST]).table().splitlines()
    assert lines[0] == "best checkpoint: epoch 2, step 20"
    assert [line.split() for line in lines[1:]] == [
        ["loss", "top1_error"],
        ["train", "1.0000", "10.00%"],
        ["validation", "0.5000", "5.00%"],
        ["test", "0.6250", "5.25%"],
    ]
    assert len({len(line) for line in lines[1:]}) == 1
    assert "test" not in HISTORY.table()


def test_what_only_evaluation_measures_leaves_a_gap_in_the_table() -> None:
    both = record(10, 2.0, 1.5)
    history = History([{**both, "val": {"bleu_error": 0.25, **both["val"]}}])
    _, names, trained, validated = history.table().splitlines()
    assert names.split() == ["bleu_error", "loss", "top1_error"]
    assert trained.split() == ["train", "2.0000", "20.00%"] and len(trained) == len(validated)


# ---- what is written -------------------------------------------------------------------------------------------------


def test_speed_sums_the_sessions_of_a_run(tmp_path: Path) -> None:
    with Logger(tmp_path, step=0, total_steps=9) as log:
        log.speed(CPU, "token", seconds=2.0, training_seconds=1.0, examples=100, items=1000)
        log.speed(CPU, "token", seconds=5.0, training_seconds=4.0, examples=400, items=4000)  # the newest figure counts
    with Logger(tmp_path, step=4, total_steps=9) as log:
        log.speed(CPU, "token", seconds=3.0, training_seconds=1.0, examples=100, items=1000)
    speed = read_json(tmp_path / "speed.json")
    assert (speed["seconds"], speed["training_seconds"], speed["examples"], speed["examples_per_second"]) == (8, 5, 500, 100)
    assert (speed["items"], speed["unit"], speed["items_per_second"]) == (5000, "token", 1000)
    assert speed["peak_memory_bytes"] > 10_000_000 and speed["device"] == device_name(CPU)
    with Logger(tmp_path, step=0, total_steps=9) as log:  # from the start: what was before does not count
        log.speed(CPU, "token", seconds=1.0, training_seconds=1.0, examples=50, items=500)
    assert read_json(tmp_path / "speed.json")["examples"] == 50


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logger, "is_main", lambda: False)
    with Logger(tmp_path, step=0, total_steps=40) as log:
        log.evaluated(HISTORY, {"kernels": torch.rand(1, 4, 5)}, best=True)
        log.finished(History([*HISTORY, TEST]), {}, Config(str(tmp_path)))
        log.summary(nn.Identity(), lambda model, batch: StepOutput(model(batch["x"]).mean(), 1, {}), {"x": torch.zeros(2, 1)})
        log.speed(CPU, "example", seconds=1.0, training_seconds=1.0, examples=1, items=1)
        log.say("hello")
    assert list(tmp_path.iterdir()) == []
    assert "".join(capsys.readouterr()) == ""


def test_the_cpu_is_named_with_its_threads_and_has_a_peak_of_memory() -> None:
    assert device_name(CPU).endswith(f"CPU, {torch.get_num_threads()} threads")
    assert peak_memory(CPU) > 10_000_000
