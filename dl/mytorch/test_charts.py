"""What TensorBoard reads of a run, and the figures that are left in its folder."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from dl.mytorch.charts import changed_flags
from dl.mytorch.config import TrainConfig
from dl.mytorch.files import read_json
from dl.mytorch.logger import History, Logger
from dl.mytorch.testing.training import read_events, scalars

HISTORY = History(
    {"epoch": step // 10, "step": step, "train": {"loss": train}, "val": {"loss": val}}
    for step, train, val in ((10, 2.0, 1.5), (20, 1.0, 0.5), (30, 0.5, 0.5), (40, 0.4, 0.9))
)
TEST = {"epoch": 2, "step": 20, "test": {"loss": 0.625, "top1_error": 0.0525}}


def test_training_and_validation_share_tags_in_two_tensorboard_runs(tmp_path: Path) -> None:
    with Logger(tmp_path, step=0, total_steps=40) as log:
        for count in range(1, len(HISTORY) + 1):
            log.evaluated(History(HISTORY[:count]), {}, best=False)
    train, val = scalars(tmp_path / "tensorboard" / "train"), scalars(tmp_path / "tensorboard" / "val")
    assert train.keys() == val.keys() == {"loss"}
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


def test_the_end_of_a_run_is_figures_history_and_the_test_beside_the_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History([*HISTORY, TEST])
    figures = {"kernels": torch.rand(1, 4, 5), "confusion": torch.rand(3, 4, 5), "words": "hello"}
    with Logger(tmp_path, step=40, total_steps=40) as log:
        log.finished(history, figures, TrainConfig(str(tmp_path), "numbers"))
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


def test_a_run_without_a_test_is_in_the_table_of_runs_with_its_best_validation(tmp_path: Path) -> None:
    """That of the quantity which chose the checkpoint: an agent's evaluation has no loss."""
    validations = [{"loss": None, "negative_return": -9.0}, {"loss": None, "negative_return": -20.0}, {"loss": None}]
    history = History({**HISTORY[0], "val": validation} for validation in validations)
    assert history.best() is None
    with Logger(tmp_path, step=40, total_steps=40) as log:
        log.finished(history, {}, TrainConfig(str(tmp_path), "numbers"), monitor="negative_return")
    events = read_events(tmp_path / "tensorboard" / "val")
    assert "_hparams_/session_start_info" in json.dumps(list(events.summary_metadata))
    assert events.Scalars("val/negative_return")[0].value == -20


def test_a_run_s_flags_in_tensorboard_are_those_that_differ_from_the_recipe_s_defaults(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Recipe(TrainConfig):
        data: str = "numbers"
        lr: float = 0.5

    assert changed_flags(Recipe(str(tmp_path), num_workers=2)) == {}
    asked = Recipe(str(tmp_path), lr=0.25, ema=0.9)
    assert changed_flags(asked) == {"lr": 0.25, "ema": 0.9}
    with Logger(tmp_path, step=40, total_steps=40) as log:
        log.finished(History(HISTORY), {}, asked)
    found = read_events(tmp_path / "tensorboard" / "val").summary_metadata["_hparams_/session_start_info"]
    content = found.plugin_data.content
    assert b"ema" in content and b"lr" in content and b"seed" not in content
