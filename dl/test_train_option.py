"""Trainings stand beside the tests, as `train.py::main`, and run only when they are asked for."""

import ast
import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LENET = "dl/modules/CNN/LeNet"
TRAINING = f"{LENET}/train.py::main"
A_TEST = f"{LENET}/test_model.py::test_colour_images_are_taken"


class Seen:
    """A plugin that notes the items of a session, and which were skipped."""

    def __init__(self) -> None:
        self.items: dict[str, pytest.Item] = {}
        self.outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = {item.nodeid: item for item in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.skipped:
            self.outcomes[report.nodeid] = report.outcome


def session(monkeypatch: pytest.MonkeyPatch, *words: str) -> Seen:
    """What another pytest in this process has seen. Paths begin at the root."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which it sets, and which is taken back
    seen = Seen()
    pytest.main(["-p", "no:cacheprovider", "-q", *words], plugins=[seen])
    return seen


def skipped(item: pytest.Item) -> bool:
    return item.get_closest_marker("skip") is not None


def test_a_training_is_collected_on_the_line_of_its_main_and_its_recipe_is_not_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "dl.modules.CNN.LeNet.train", None)  # an import of it would fail
    item = session(monkeypatch, "--collect-only", TRAINING).items[TRAINING]
    path, line, _ = item.location
    assert (ROOT / path).read_text(encoding="utf-8").splitlines()[line].startswith("def main(")


@pytest.mark.parametrize("options", [[], ["--train"]], ids=["", "train"])
def test_tests_and_trainings_are_in_one_tree(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    seen = session(monkeypatch, "--collect-only", *options, LENET)
    assert {TRAINING, A_TEST} <= set(seen.items)
    assert skipped(seen.items[TRAINING]) == (not options)


def test_a_folder_run_by_the_editor_which_passes_each_id_skips_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = list(session(monkeypatch, "--collect-only", LENET).items)
    assert len(ids) > 20 and TRAINING in ids
    seen = session(monkeypatch, "--collect-only", *(str(ROOT / name) for name in ids))
    assert list(seen.items) == ids and [name for name, item in seen.items.items() if skipped(item)] == [TRAINING]
    assert session(monkeypatch, TRAINING, A_TEST).outcomes == {TRAINING: "skipped", A_TEST: "passed"}


@pytest.mark.parametrize("asked", [[f"{LENET}/train.py"], [TRAINING], [TRAINING, "dl/modules/MLP/MLP/train.py"]])
def test_trainings_asked_for_alone_are_not_skipped(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    seen = session(monkeypatch, "--collect-only", *asked)
    assert len(seen.items) == len(asked) and not any(map(skipped, seen.items.values()))


def test_records_are_items_with_their_marker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / LENET / "results").glob("*.json"))
    assert list(session(monkeypatch, "--collect-only", "-m", "records", LENET).items) == [
        f"{file}::reproduces" for file in files
    ]
    assert not [name for name in session(monkeypatch, "--collect-only", LENET).items if ".json" in name]


@pytest.mark.parametrize(("lacking", "words"), [("torch", []), ("PIL", ["--train"])])
def test_an_interpreter_without_the_packages_is_told_of_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, lacking: str, words: list[str]
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == lacking else there(name, *more))
    assert session(monkeypatch, LENET, *words).items == {}
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if line]
    assert len(lines) == 1 and f"lacks {lacking}" in lines[0] and ".venv" in lines[0] and "make test" in lines[0]


def test_a_python_that_is_too_old_reads_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in ("conftest.py", "dl/__init__.py"):
        ast.parse((ROOT / file).read_text(encoding="utf-8"), feature_version=(3, 8))
    monkeypatch.setattr(sys, "version_info", (3, 10, 13, "final", 0))
    with pytest.raises(SystemExit, match=r"^dl needs Python 3\.11 or newer, and this is 3\.10 .*make test"):
        runpy.run_path(str(ROOT / "dl/__init__.py"))


def run_pytest(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [["--train", LENET], [TRAINING]], ids=["option", "alone"])
def test_a_training_trains_and_leaves_a_run(tmp_path: Path, asked: list[str]) -> None:
    flags = f"--data fashion_mnist-sample --model tiny --epochs 1 --out {tmp_path}/run"
    done = run_pytest(*asked, f"--train-args={flags}")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
    history = json.loads((tmp_path / "run" / "history.json").read_text(encoding="utf-8"))
    assert history[-1]["test"]["top1_error"] < 0.8  # of ten classes, in a few steps of a tiny network: it has learnt
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["recipe"] == "CNN/LeNet"


@pytest.mark.slow
def test_a_training_that_fails_is_a_failed_test(tmp_path: Path) -> None:
    done = run_pytest("--train", LENET, f"--train-args=--data fashion_mnist-sample --lr 1e9 --out {tmp_path}/run")
    assert done.returncode == 1 and "not finite at step" in done.stdout + done.stderr, done.stdout
