"""Records that hold, that were falsified, and whose recipe has changed; trainings are copies of a run that is there."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from dl.cli import records, reproduce
from dl.cli.testing import make_finished_run, make_project
from dl.mytorch.config import UserError

Trained = Callable[..., dict[str, Any]]


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Record a run whose training will give the same result, then change the record: `record(error, seed, test=...)`."""
    project = make_project(tmp_path, monkeypatch)
    monkeypatch.setattr(reproduce, "RUNS", tmp_path / "again")
    monkeypatch.setattr(reproduce, "data_is_here", lambda data: data != "mnist")
    runs = {}

    def train(record: dict[str, Any], precision: str, out: Path) -> str:
        shutil.copytree(runs[record["path"]], out)
        return ""

    monkeypatch.setattr(reproduce, "train", train)

    def make(error: float = 0.1, seed: int = 0, **changes: Any) -> dict[str, Any]:
        run = make_finished_run(project / f"run{seed}", error, seed=seed)
        path = records.record(run)
        runs[path] = run
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, value in changes.items():
            content[name] = {**content[name], **value} if isinstance(value, dict) else value
        path.write_text(json.dumps(content), encoding="utf-8")
        return {**content, "path": path}

    return make


def run(*words: str, minutes: float = 5) -> int:
    return reproduce.main(argparse.Namespace(model=words[0] if words else None, max_minutes=minutes))


def test_a_record_of_this_machine_is_the_same_bytes(record: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    record()
    assert run("lenet") == 0
    out = capsys.readouterr().out
    assert "1 of 1: CNN/LeNet fashion_mnist-modern-seed0: the same bytes" in out
    assert "top-1 error  10.00 %   10.00 %" in out and "0 of 1 missed, 0 could not be tried here" in out


@pytest.mark.parametrize(
    ("changes", "missed"),
    [({"test": {"top1_error": 0.0999}}, "other top1_error"), ({"sha256": {"best.pt": "0"}}, "other best.pt")],
)
def test_a_record_falsified_by_hand_is_missed(
    changes: dict[str, Any], missed: str, record: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    record(**changes)
    assert run() == 1
    assert f"MISSED: {missed}" in capsys.readouterr().out


def test_on_another_machine_figures_are_compared_and_one_falsified_seed_does_not_excuse_itself(
    record: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, falsified in enumerate((0.1, 0.1, 0.07)):
        record(0.1, seed, capability="more beads", test={"top1_error": falsified})
    assert run() == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if " of 3: " in line]
    assert ["MISSED: not top-1 error within 0.50 %" in line for line in lines] == [False, False, True]


def test_a_record_whose_recipe_s_default_or_optimizer_is_another_today_is_missed(
    record: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    record(config={"lr": 0.05})  # its command does not say so: then, that was the default
    record(seed=1, optimizer="sgd(lr=0.1, momentum=0.8)")
    assert run() == 1
    out = capsys.readouterr().out
    assert "today its command means another training (lr was 0.05, is 0.1)" in out
    assert "its recipe has changed (optimizer was sgd(lr=0.1, momentum=0.8), is sgd(lr=0.1, momentum=0.9))" in out


def test_what_cannot_be_tried_here_is_listed_and_no_miss(record: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    record(config={"data": "mnist"})
    record(seed=1, ranks=2)
    record(seed=2, device="NVIDIA H200") if reproduce.device().type == "cpu" else record(seed=2, ranks=2)
    assert run() == 0
    out = capsys.readouterr().out
    assert "not tried: mnist is not on this machine" in out and "not tried: it was trained by 2 processes" in out
    assert "0 of 0 missed, 3 could not be tried here" in out


def test_a_bf16_record_is_trained_in_fp32_where_bf16_is_emulated_and_says_so(
    record: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "native_bf16", lambda where: (False, "emulated"))
    record(precision="bf16")
    assert run() == 0
    assert "within 0.0125 in fp32, recorded in bf16" in capsys.readouterr().out


def test_a_record_of_an_earlier_version_is_trained_by_its_config_and_its_seed(record: Trained) -> None:
    made = record(0.1, 3)
    old = {name: value for name, value in made.items() if name not in records.MEASURED}
    assert reproduce.words(made) == ["--out", str(Path(made["config"]["out"])), "--seed=3", "--fresh"]
    assert reproduce.words(old | {"config": made["config"] | {"lr": 0.2}}) == ["--lr", "0.2", "--seed=3"]
    assert reproduce.changed_since(old | {"config": made["config"] | {"lr": 0.2}}) == ""
    assert "no such flag: --gone" in reproduce.changed_since(made | {"command": "python train.py --gone"})


def test_tolerances_by_hand(record: Trained) -> None:
    made = [record(error, seed) for seed, error in enumerate((0.10, 0.11, 0.13))]
    assert reproduce.tolerance("top1_error", made[0]) == pytest.approx(3 * 0.02 / 2**0.5)
    assert reproduce.tolerance("loss", made[0]) == pytest.approx(0.02 * 0.25)
    made[2]["path"].unlink()
    assert reproduce.tolerance("top1_error", made[0]) == 0.015 and reproduce.tolerance("loss", made[0]) == 0.05 * 0.25


def test_records_that_took_longer_are_left_out(record: Trained) -> None:
    record()
    with pytest.raises(UserError, match="nothing is recorded of any model that took 1 min or less"):
        run(minutes=1)


def test_a_training_has_the_recorded_threads_and_its_last_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(command: list[str], env: dict[str, str], stdout: Any, **_: Any) -> subprocess.CompletedProcess:
        stdout.write(f"{' '.join(command[1:])}\n{env['OMP_NUM_THREADS']} threads, no room".encode())
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fails)
    old = {"recipe": "CNN/LeNet", "format": 2, "command": "python -m x --lr 1", "device": "x86_64 CPU, 7 threads"}
    out = tmp_path / "run"
    assert reproduce.train(old, "fp32", out) == f"7 threads, no room ({out}.log)"
    first = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()[0]
    assert first == f"-m dl.modules.CNN.LeNet.train --lr 1 --out={out} --precision=fp32 --fresh --device=cpu"


def test_data_that_is_bundled_is_here() -> None:
    assert reproduce.data_is_here("fashion_mnist-sample") and reproduce.data_is_here("shakespeare-sample")
    assert reproduce.data_is_here("numbers of its own")


def test_published_data_that_would_be_downloaded_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from dl.mytorch.data import sources

    monkeypatch.setattr(sources, "find", lambda source: None)
    assert not any(map(reproduce.data_is_here, ("cifar10", "wikitext2", "sst2", "fra-eng", "shakespeare-sample")))


@pytest.mark.slow
def test_a_training_is_reproduced_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data", "fashion_mnist-sample", "--model", "tiny", "--steps", "3", "--out", str(tmp_path / "run")]
    subprocess.run([sys.executable, "-m", "dl", "train", "lenet", *words], check=True, timeout=300)
    monkeypatch.setattr(reproduce, "RUNS", tmp_path / "again")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.catalogue, "MODULES", make_project(tmp_path / "project", patch) / "dl" / "modules")
        path = records.record(tmp_path / "run", allow_dirty=True)
        (record,) = records.of_model("CNN/LeNet")
        outcome = reproduce.reproduce(record)
    assert outcome.met and outcome.reason == "the same bytes" and path.exists()
