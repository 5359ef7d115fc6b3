"""Ray Train around a recipe: what is refused before anything starts; a worker killed in training (slow tier, with Ray)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dl.mytorch import checkpoint
from dl.mytorch.files import read_json
from dl.mytorch.large.launch import ray_train
from dl.mytorch.testing.processes import RECIPE, finish, start

WRONG = """
from dl.mytorch.config import TrainConfig as Config, UserError


def main(config):
    raise UserError(f"no {config.data}")
"""
# The recipe, whose second rank kills itself at the 12th step, once.
KILLED = """
import os
import signal
from pathlib import Path

import train
from dl.mytorch.distributed import rank
from train import Config, main


class Killed(train.Paused):
    steps = 0

    def step(self, model, batch):
        self.steps += model.training
        if rank() == 1 and self.steps == 12 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(model, batch)


train.Paused = Killed
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules to which the command goes."""
    for name, text in {"train": RECIPE, "killed": KILLED, "wrong": WRONG}.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_error_that_can_be_fixed_is_returned_and_not_raised(place: Path) -> None:
    flags = ["--out", "run", "--data", "x"]
    assert ray_train.train({"recipe": "wrong", "flags": flags, "folder": str(place)}) == "no x"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["no.such.module"], "no.such.module is no module with a recipe"),
        (["dl.mytorch.config"], "dl.mytorch.config is no module with a recipe"),
        (["wrong", "--out", "run", "--data", "x"], "2 workers train one run: add --parallel ddp"),
        (["wrong", "--out", "run", "--data", "x", "--epochs", "many"], "invalid int value"),
        (["wrong", "--out", "run", "--data", "x", "--fresh"], "--fresh would start over whenever a worker is lost"),
    ],
)
def test_what_cannot_train_is_one_line_before_ray_starts(
    place: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        ray_train.main(words)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and says in said and said.count("\n") == 1


def test_without_ray_one_line_names_the_extra(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert ray_train.main(["wrong", "--out", "run", "--data", "x", "--parallel", "ddp"]) == 1
    assert capsys.readouterr().err == 'error: Ray is not installed: pip install -e ".[ray]"\n'


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_the_best_weights_of_the_undisturbed_run(place: Path) -> None:
    pytest.importorskip("ray", reason='takes Ray: pip install -e ".[ray]"')
    whole, broken = place / "whole", place / "broken"
    flags = ["--parallel", "ddp", "--epochs", "6", "--save-every", "5", "--no-plots"]
    finish(start(place / "train.py", "--out", str(whole), *flags, ranks=2))  # by torchrun
    flags += ["--out", str(broken), "--batch-size", "8", "--lr", "0.01", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), *sys.path]), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", ray_train.__name__, "--workers", "2", "killed", *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (place / "killed").exists() and "resuming " in done.stdout + done.stderr
    assert (broken / "best.pt").read_bytes() == (whole / "best.pt").read_bytes()
    assert read_json(broken / "history.json") == read_json(whole / "history.json")
    assert checkpoint.load(broken / "last.pt")["position"] == checkpoint.load(whole / "last.pt")["position"]
