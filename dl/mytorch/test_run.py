"""A run's folder: who may write into it, what it says of itself, what of it is believed when it is read."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.cli.runs import Run
from dl.mytorch import run
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.files import read_json, write_json, write_recorded_json
from dl.mytorch.optim import sgd
from dl.mytorch.run import held, open_run, recorded_precision, say_what_is_unverified
from dl.mytorch.testing.runs import forget


@dataclass(frozen=True)
class Config(TrainConfig):
    data: str = "numbers"
    act: str = "relu"


def test_a_new_run_says_what_was_asked_for(tmp_path: Path) -> None:
    config = Config(str(tmp_path / "a" / "run"), lr=0.1)
    assert open_run(config) == tmp_path / "a" / "run"
    written = read_json(tmp_path / "a" / "run" / "config.json")
    assert written["config"] == dataclasses.asdict(config)
    assert written["recipe"] == "dl/mytorch"  # the folders that this file, which declares Config, lies in
    assert written["file"] == "test_run"
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


def test_a_flag_that_came_since_had_its_default_and_one_that_went_is_named(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path)))
    described = read_json(tmp_path / "config.json")
    del described["config"]["act"]
    write_recorded_json(described, tmp_path / "config.json")
    open_run(Config(str(tmp_path)))
    with pytest.raises(UserError, match="act relu there, tanh asked for"):
        open_run(Config(str(tmp_path), act="tanh"))
    described["config"] |= {"act": "relu", "gone": 1}
    write_recorded_json(described, tmp_path / "config.json")
    with pytest.raises(UserError, match=r"gone 1 there, \(none\) asked for"):
        open_run(Config(str(tmp_path)))


FREE = {
    **{"num_workers": 2, "device": "cpu", "parallel": "ddp", "compile": True, "checkpoint_activations": True},
    **{"shard_size": 2, "tensor_size": 2, "sequence": True, "deterministic": True},
    **{"log_every": 7, "save_every": 9, "plots": False, "profile": 3},
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
        write_recorded_json(written, tmp_path / "config.json")
    for asked in ("auto", "bf16"):
        assert recorded_precision(Config(str(tmp_path), precision=asked)) == "bf16"
        open_run(Config(str(tmp_path), precision=asked), "bf16")
    with pytest.raises(UserError, match="precision bf16 there, fp32 asked for"):
        open_run(Config(str(tmp_path), precision="fp32"))
    assert recorded_precision(Config(str(tmp_path), precision="auto", fresh=True)) is None
    (tmp_path / "best.pt").touch()
    assert Run.open(tmp_path).precision == "bf16"
    write_recorded_json(written | {"precision": "fp8"}, tmp_path / "config.json")
    with pytest.raises(UserError, match="says precision 'fp8'"):
        recorded_precision(Config(str(tmp_path), precision="auto"))


def test_every_other_flag_may_not_differ(tmp_path: Path) -> None:
    values = {"data": "letters", "act": "tanh", "precision": "bf16", "channels_last": True, "layerwise": "greedy"}
    numbers = {"seed", "epochs", "steps", "batch_size", "accumulate", "lr", "weight_decay", "grad_clip", "eval_every"}
    values |= {name: getattr(Config("x"), name) + 1 for name in numbers} | {"ema": 0.5}
    open_run(Config(str(tmp_path)))
    for field in dataclasses.fields(Config):
        if field.name not in {*FREE, "out", "fresh"}:
            with pytest.raises(UserError, match=field.name):
                open_run(Config(str(tmp_path), **{field.name: values[field.name]}))


def test_a_run_that_was_begun_under_an_earlier_name_of_a_flag_is_resumed(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path), grad_clip=0.5))
    described = read_json(tmp_path / "config.json")
    described["config"]["clip"] = described["config"].pop("grad_clip")
    write_recorded_json(described, tmp_path / "config.json")
    open_run(Config(str(tmp_path), grad_clip=0.5))
    with pytest.raises(UserError, match="grad_clip 0.5 there, 0.25 asked for"):
        open_run(Config(str(tmp_path), grad_clip=0.25))


def test_fresh_removes_the_files_of_the_run_and_nothing_else(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path), lr=0.1))
    mine = ["blocks/1.txt", "notes.txt", "my_best.pt", "data.json", "sub/curves.png", "sub/best.pt"]
    theirs = [
        "history.json",
        "speed.json",
        "summary.txt",
        "best.pt",
        "last.pt",
        "last.pt.tmp",
        "curves.png",
        "kernels.png",
        "tensorboard/val/events",
    ]
    for name in mine + theirs:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    open_run(Config(str(tmp_path), lr=0.2, fresh=True))
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*mine, "config.json", "checksums.json"}
    assert not (tmp_path / "tensorboard").exists()
    assert read_json(tmp_path / "config.json")["config"]["lr"] == 0.2
    open_run(Config(str(tmp_path), lr=0.2))  # and is resumed without --fresh


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
        Run.open(tmp_path)


def test_damaged_json_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"config": ', encoding="utf-8")
    with pytest.raises(UserError, match=r"config.json is damaged: .*--fresh"):
        open_run(Config(str(tmp_path)))


def test_only_rank_0_makes_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "is_main", lambda: False)
    with held(Config(str(tmp_path / "run"))):
        open_run(Config(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


# ---- one writer ------------------------------------------------------------------------------------------------------


def test_a_folder_in_which_another_process_trains_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(path: Path, line: str) -> None:
        raise UserError(line)

    monkeypatch.setattr(run, "locked", busy)
    with pytest.raises(UserError, match=f"{tmp_path} is in use: another process trains there"), held(Config(str(tmp_path))):
        pass


def test_the_next_start_deletes_what_a_killed_one_had_half_written_and_nothing_else(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path)))
    for name in ("last.pt.ab12.tmp", "history.json.x.tmp", "mine.tmp", "my.last.pt.ab12.tmp"):
        (tmp_path / name).touch()
    with held(Config(str(tmp_path))):
        assert sorted(path.name for path in tmp_path.glob("*.tmp")) == ["mine.tmp", "my.last.pt.ab12.tmp"]


def test_another_program_s_folder_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    with pytest.raises(UserError, match="is not of a run"), held(Config(str(tmp_path))):
        pass
    assert os.listdir(tmp_path) == ["best.pt"]


# ---- what a folder says of itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["recipe", "file"])
def test_the_folder_of_another_recipe_is_refused(name: str, tmp_path: Path) -> None:
    """Though all flags are the same."""
    open_run(Config(str(tmp_path)))
    written = read_json(tmp_path / "config.json")
    write_recorded_json(written | {name: "other"}, tmp_path / "config.json")
    with pytest.raises(UserError, match=f"{name} other there, {written[name]} asked for.*choose another --out"):
        open_run(Config(str(tmp_path)))
    assert written["format"] == 2
    forget(tmp_path / "config.json")
    del written["format"], written["file"]  # version 0.1
    write_json(written, tmp_path / "config.json")
    open_run(Config(str(tmp_path)))


def test_a_changed_file_is_refused_until_the_person_says_so_and_then_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_run(Config(str(tmp_path), lr=0.1))
    path = tmp_path / "config.json"
    path.write_bytes(path.read_bytes().replace(b'"lr": 0.1', b'"lr": 0.2'))
    for read in (lambda: open_run(Config(str(tmp_path), lr=0.2)), lambda: recorded_precision(Config(str(tmp_path)))):
        with pytest.raises(
            UserError, match="config.json was changed since it was written.*delete its entry in .*checksums.json"
        ):
            read()
    assert capsys.readouterr().err == ""
    forget(path)
    write_recorded_json([], tmp_path / "history.json")
    for _ in range(2):
        open_run(Config(str(tmp_path), lr=0.2))
        say_what_is_unverified(tmp_path, "config.json", "best.pt")
    assert capsys.readouterr().err == f"note: {tmp_path}: config.json written before checksums: not verified\n"


DESCRIBED = {"recipe": "A/B", "config": {"out": "x", "data": "numbers", "lr": 0.5}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"recipe": 3}, "recipe has to be text"),
        ({"config": []}, "config has to be an object"),
        ({"config": {"lr": [0.5]}}, "config.lr has to be"),
        ({"versions": {"torch": 2}}, "versions.torch has to be text"),
        ({"format": 3}, "was written by a newer version of this project: format 3, not 2"),
        ({"format": True}, "format has to be a whole number"),
    ],
)
def test_a_config_json_of_other_types_is_a_line_that_names_the_field(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    write_json(DESCRIBED | changes, tmp_path / "config.json")
    (tmp_path / "best.pt").touch()
    for read in (Run.open, lambda path: open_run(Config(str(path)))):
        with pytest.raises(UserError, match=f"config.json.*{says}") as refused:
            read(tmp_path)
        assert "\n" not in str(refused.value)


def test_what_to_do_about_a_run_without_a_checkpoint_names_its_own_recipe(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no best.pt; `python -m dl.modules.GPT.GPT2.train` makes one$"):
        Run.open(tmp_path, "GPT/GPT2")
    with pytest.raises(UserError, match=r"`python -m dl.modules.RNN.RNN.train` or `python -m .*RNN.GRU.train` makes one$"):
        Run.open(tmp_path, "RNN/RNN", "RNN/GRU")
    command = f"python -m dl.modules.GPT.GPT2.train --steps 9 --out {tmp_path}"
    write_json({"recipe": "GPT/GPT2", "config": {}, "command": command}, tmp_path / "config.json")
    with pytest.raises(UserError, match="before its first evaluation; `python -m .*GPT2.train --steps 9 .* resumes it"):
        Run.open(tmp_path, "GPT/GPT2")
    with pytest.raises(UserError, match="is a run of GPT/GPT2, not of RNN/RNN, RNN/GRU"):
        Run.open(tmp_path, "RNN/RNN", "RNN/GRU")
    with pytest.raises(UserError, match="config.json is a file; the folder of a run is asked for, say "):
        Run.open(tmp_path / "config.json")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have no names on this system")
def test_what_is_no_file_in_a_run_is_a_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for kind in ("pipe", "folder"):
        for name in ("config.json", "best.pt"):
            place = tmp_path / f"{kind}-{name}"
            place.mkdir()
            for other in ("config.json", "best.pt"):
                write_json(DESCRIBED, place / other)
            (place / name).unlink()
            (place / name).symlink_to(tmp_path / kind)
            with pytest.raises(UserError, match=f"{name} is a (folder|device or pipe), not a file"):
                Run.open(place)
            if name == "config.json":
                with pytest.raises(UserError, match=f"{name} is a (folder|device or pipe), not a file"):
                    open_run(Config(str(place), fresh=True))


def test_config_json_keeps_what_optimizer_and_schedule_were_made_by(tmp_path: Path) -> None:
    open_run(Config(str(tmp_path)), optimizer=sgd(0.1, momentum=0.9), schedule=lambda step, total: 1.0)
    described = read_json(tmp_path / "config.json")
    assert described["optimizer"] == "sgd(lr=0.1, momentum=0.9)"
    assert "schedule" not in described  # an address of memory says nothing
