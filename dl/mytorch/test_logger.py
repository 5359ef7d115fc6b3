"""A run's folder: who may write into it, what is written, and what TensorBoard reads from it."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.mytorch import logger
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.files import write_json
from dl.mytorch.logger import History, Logger, device_name, open_run, peak_memory, read_json, recorded_precision, trained_run

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


# ---- the folder ------------------------------------------------------------------------------------------------------


def test_a_new_run_says_what_was_asked_for(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "a" / "run"), lr=0.1)
    assert open_run(config) == tmp_path / "a" / "run"
    written = read_json(tmp_path / "a" / "run" / "config.json")
    assert written["config"] == dataclasses.asdict(config)
    assert written["recipe"] == "dl/mytorch"  # the folders that this file, which declares Config, lies in
    assert written["file"] == "test_logger"
    assert written["versions"]["torch"] == torch.__version__
    assert written["command"].startswith("python ") and written["ranks"] == 1
    assert len(written["commit"].rstrip("+")) in (0, 40)


def test_a_config_that_is_in_no_file_can_be_run(tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "a_notebook", "TrainConfig": TrainConfig}
    exec("class InNotebook(TrainConfig): pass", space)
    open_run(space["InNotebook"](str(tmp_path), "numbers"))
    assert read_json(tmp_path / "config.json")["config"]["data"] == "numbers"


def test_a_run_is_opened_again_by_the_same_config(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path)))
    before = (tmp_path / "config.json").read_bytes()
    (tmp_path / "last.pt").write_bytes(b"state")
    open_run(Config(str(tmp_path)))
    assert (tmp_path / "config.json").read_bytes() == before and (tmp_path / "last.pt").read_bytes() == b"state"


def test_another_config_is_refused_and_what_differs_is_named(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path), lr=0.1))
    with pytest.raises(UserError) as refused:
        open_run(Config(str(tmp_path), lr=0.2, act="tanh"))
    message = str(refused.value)
    assert "act relu there, tanh asked for; lr 0.1 there, 0.2 asked for" in message
    assert str(tmp_path) in message and "--out" in message and "--fresh" in message
    assert read_json(tmp_path / "config.json")["config"]["lr"] == 0.1


def test_a_flag_that_came_or_went_since_is_named(tmp_path: Path) -> None:
    open_run(TrainConfig(str(tmp_path), "numbers"))
    with pytest.raises(UserError, match=r"act \(none\) there, relu asked for"):
        open_run(Config(str(tmp_path)))


FREE = {
    **{"num_workers": 2, "device": "cpu", "parallel": "ddp", "compile": True, "checkpoint_activations": True},
    **{"deterministic": True, "log_every": 7, "save_every": 9},
}


@pytest.mark.parametrize("name", FREE)
def test_flags_that_change_no_result_may_differ(name: str, tmp_path: Path) -> None:
    open_run(Config(str(tmp_path)))
    assert open_run(Config(str(tmp_path), **{name: FREE[name]})) == tmp_path


@pytest.mark.parametrize("before", [{}, {"precision": "auto"}])
def test_auto_and_what_the_run_took_open_it_and_the_other_precision_does_not(before: dict[str, str], tmp_path: Path) -> None:
    config = Config(str(tmp_path), precision=before.get("precision", "bf16"))
    assert recorded_precision(config) is None
    open_run(config, "bf16")
    written = read_json(tmp_path / "config.json")
    assert (written["config"]["precision"], written["precision"]) == (config.precision, "bf16")
    if not before:  # a run of before there was auto
        del written["precision"]
        write_json(written, tmp_path / "config.json")
    for asked in ("auto", "bf16"):
        assert recorded_precision(Config(str(tmp_path), precision=asked)) == "bf16"
        open_run(Config(str(tmp_path), precision=asked), "bf16")
    with pytest.raises(UserError, match="precision bf16 there, fp32 asked for"):
        open_run(Config(str(tmp_path), precision="fp32"))
    assert recorded_precision(Config(str(tmp_path), precision="auto", fresh=True)) is None
    (tmp_path / "best.pt").touch()
    assert trained_run(tmp_path)["precision"] == "bf16"
    write_json(written | {"precision": "fp8"}, tmp_path / "config.json")
    with pytest.raises(UserError, match="says precision 'fp8'"):
        recorded_precision(Config(str(tmp_path), precision="auto"))


def test_every_other_flag_may_not_differ(tmp_path: Path) -> None:
    values = {"data": "letters", "act": "tanh", "precision": "bf16", "channels_last": True, "layerwise": "greedy"}
    numbers = {"seed", "epochs", "steps", "batch_size", "accumulate", "lr", "weight_decay", "clip", "eval_every"}
    values |= {name: getattr(Config("x"), name) + 1 for name in numbers} | {"ema": 0.5}
    open_run(Config(str(tmp_path)))
    for field in dataclasses.fields(Config):
        if field.name not in {*FREE, "out", "fresh"}:
            with pytest.raises(UserError, match=field.name):
                open_run(Config(str(tmp_path), **{field.name: values[field.name]}))


def test_fresh_removes_the_files_of_the_run_and_nothing_else(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path), lr=0.1))
    mine = ["blocks/1.txt", "notes.txt", "my_best.pt", "data.json", "sub/curves.png", "sub/best.pt"]
    theirs = ["history.json", "speed.json", "summary.txt", "best.pt", "last.pt", "last.pt.tmp", "curves.png", "kernels.png", "tensorboard/val/events"]
    for name in mine + theirs:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    open_run(Config(str(tmp_path), lr=0.2, fresh=True))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*mine, "config.json"}
    assert not (tmp_path / "tensorboard").exists()
    assert read_json(tmp_path / "config.json")["config"]["lr"] == 0.2
    open_run(Config(str(tmp_path), lr=0.2))  # and goes on without --fresh


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(("name", "content"), [("config.json", '{"model_type": "bert"}'), ("best.pt", "somebody's")])
def test_another_program_s_folder_is_refused_and_kept(tmp_path: Path, name: str, content: str, fresh: bool) -> None:
    files = [name, "photo.png", "blocks_of_mine/1.txt", "block_party/1.txt", "shards-of-glass/1.txt"]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=f"holds {name}, which is not of a run of this project: choose another --out"):
        open_run(Config(str(tmp_path), fresh=fresh))
    assert sorted(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*")) == [content] * len(files)
    (tmp_path / "best.pt").touch()
    with pytest.raises(UserError, match="not of a run of this project|no trained network"):
        trained_run(tmp_path)


def test_what_to_do_about_a_run_without_a_checkpoint_names_its_own_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no best.pt; `python -m dl.modules.GPT.GPT2.train` makes one$"):
        trained_run(tmp_path, "GPT/GPT2")
    with pytest.raises(UserError, match=r"`python -m dl.modules.RNN.RNN.train` or `python -m .*RNN.GRU.train` makes one$"):
        trained_run(tmp_path, "RNN/RNN", "RNN/GRU")
    command = f"python -m dl.modules.GPT.GPT2.train --steps 9 --out {tmp_path}"
    write_json({"recipe": "GPT/GPT2", "config": {}, "command": command}, tmp_path / "config.json")
    with pytest.raises(UserError, match="before its first evaluation; `python -m .*GPT2.train --steps 9 .* resumes it"):
        trained_run(tmp_path, "GPT/GPT2")
    with pytest.raises(UserError, match="is a run of GPT/GPT2, not of RNN/RNN, RNN/GRU"):
        trained_run(tmp_path, "RNN/RNN", "RNN/GRU")
    with pytest.raises(UserError, match="config.json is a file; the folder of a run is asked for, say "):
        trained_run(tmp_path / "config.json")


def test_damaged_json_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json is damaged .*--fresh"):
        open_run(Config(str(tmp_path)))


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
    open_run(Config(str(tmp_path / "run")))
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
