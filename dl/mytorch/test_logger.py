"""A run's folder: who may write into it, what is written, and what TensorBoard reads from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.mytorch import logger
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


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard reads them."""
    events = read_events(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_training_and_validation_share_tags_in_two_tensorboard_runs(tmp_path: Path) -> None:
    with Logger(tmp_path, step=0, total_steps=40) as log:
        for count in range(1, len(HISTORY) + 1):
            log.evaluated(History(HISTORY[:count]), {}, best=False)
    train, val = scalars(tmp_path / "tensorboard" / "train"), scalars(tmp_path / "tensorboard" / "val")
    assert train.keys() == val.keys() == {"loss", "top1_error"}
    assert train["loss"] == [(10, 2.0), (20, 1.0), (30, 0.5), (40, pytest.approx(0.4))]
    assert val["loss"] == [(10, 1.5), (20, 0.5), (30, 0.5), (40, pytest.approx(0.9))]
    assert read_json(tmp_path / "history.json") == HISTORY


def test_points_after_the_step_of_a_resumed_run_are_replaced(tmp_path: Path) -> None:
    with Logger(tmp_path, step=0, total_steps=40) as log:
        for step in (10, 20, 30):
            log.scalars("val", {"loss": 1.0}, step)
    with Logger(tmp_path, step=20, total_steps=40) as log:
        log.scalars("val", {"loss": 2.0}, 30)
    assert scalars(tmp_path / "tensorboard" / "val")["loss"] == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_the_end_of_a_run_is_pictures_history_and_the_test_beside_the_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History([*HISTORY, TEST])
    pictures = {"kernels": torch.rand(1, 4, 5), "confusion": torch.rand(3, 4, 5), "words": "hello"}
    with Logger(tmp_path, step=40, total_steps=40) as log:
        log.finished(history, pictures, Config(str(tmp_path)))
    printed = capsys.readouterr().out
    for name in ("curves", "kernels", "confusion"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / f"{name}.png") in printed
    assert read_json(tmp_path / "history.json") == history
    events = read_events(tmp_path / "tensorboard" / "test")
    tags = events.Tags()
    assert {"loss", "top1_error", "test/loss"} <= set(tags["scalars"])
    assert events.Scalars("test/loss")[0].value == 0.625
    assert set(tags["images"]) == {"kernels", "confusion"} and any("words" in tag for tag in tags["tensors"])
    plugins = json.dumps(list(events.summary_metadata))
    assert "_hparams_/session_start_info" in plugins


def test_speed_sums_the_sessions_of_a_run(tmp_path: Path) -> None:
    with Logger(tmp_path, step=0, total_steps=9) as log:
        log.speed(CPU, 2.0, 1.0, 100)
        log.speed(CPU, 5.0, 4.0, 400)  # within a session the newest figure counts
    with Logger(tmp_path, step=4, total_steps=9) as log:
        log.speed(CPU, 3.0, 1.0, 100)
    speed = read_json(tmp_path / "speed.json")
    assert (speed["seconds"], speed["training_seconds"], speed["examples"], speed["examples_per_second"]) == (8, 5, 500, 100)
    assert speed["peak_memory_bytes"] > 10_000_000 and speed["device"] == device_name(CPU)
    with Logger(tmp_path, step=0, total_steps=9) as log:  # from the start: what was before does not count
        log.speed(CPU, 1.0, 1.0, 50)
    assert read_json(tmp_path / "speed.json")["examples"] == 50


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logger, "is_main", lambda: False)
    with Logger(tmp_path, step=0, total_steps=40) as log:
        log.evaluated(HISTORY, {"kernels": torch.rand(1, 4, 5)}, best=True)
        log.finished(History([*HISTORY, TEST]), {}, Config(str(tmp_path)))
        log.summary("text")
        log.speed(CPU, 1.0, 1.0, 1)
        log.say("hello")
    assert list(tmp_path.iterdir()) == []
    assert "".join(capsys.readouterr()) == ""


def test_the_cpu_is_named_with_its_threads_and_has_a_peak_of_memory() -> None:
    assert device_name(CPU).endswith("CPU, 1 threads")
    assert peak_memory(CPU) > 10_000_000
