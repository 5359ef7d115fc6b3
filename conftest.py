"""What all tests share (dl/mytorch/testing/fixtures.py), and trainings as items beside them: `train.py::main` trains."""

from __future__ import annotations  # for an older Python, which reads this file before it is told that it is too old

import ast
import gc
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Iterator

import pytest

import dl  # noqa: F401 (ends an older Python with one line)

PACKAGES = ("torch", "torchvision", "numpy", "PIL", "tqdm", "tensorboard", "matplotlib")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("dl")
    group.addoption("--train", action="store_true", help="run the train.py files below the folders asked for, instead of tests")
    group.addoption("--train-args", default="", metavar="ARGS", help="flags for these, say --train-args='--epochs 1'")
    group.addoption("--proof", action="store_true", help="write how far models are from their twins into their proof.json")
    group.addoption("--threads", type=int, default=1, metavar="N", help="threads of each test (default: %(default)s)")


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until all is imported and collected
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:  # an editor has taken the interpreter of the system
        advice = "run `make test`, which installs them into .venv, and choose the interpreter in .venv"
        raise pytest.UsageError(f"{sys.executable} lacks {', '.join(missing)}: {advice}")
    threads = config.getoption("--threads")
    if threads < 1:
        raise pytest.UsageError(f"--threads is {threads}; it is at least 1")
    if not _trains(config):  # a training takes all processors
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that tests start
        if not config.getoption("numprocesses", None):  # with `-n`, this process has no test, and does not wait for torch
            config.pluginmanager.import_plugin("dl.mytorch.testing.fixtures")
    if config.getoption("--proof"):
        _record_proofs(config)


def _record_proofs(config: pytest.Config) -> None:
    """Run the default and the parity tests with what measures their differences."""
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("--proof runs in one process, without -n")
    from dl.mytorch.testing.proofs import Recorder

    config.option.markexpr = "not slow and not gpu"
    config.pluginmanager.register(Recorder(config.rootpath))


def _trains(config: pytest.Config) -> bool:
    """Whether everything that was asked for is a training: each argument a train.py, or a node id of one."""
    return all(Path(argument.partition("::")[0]).name == "train.py" for argument in config.args)


class TrainFile(pytest.File):
    """A recipe. It is read, not imported, to find the line of its `main`."""

    def collect(self) -> Iterator[pytest.Item]:
        try:
            nodes = ast.parse(self.path.read_text(encoding="utf-8"), str(self.path)).body
        except SyntaxError as error:
            raise self.CollectError(f"{self.path}:{error.lineno}: {error.msg}") from None
        for node in nodes:
            if isinstance(node, ast.FunctionDef) and node.name == "main":
                yield TrainItem.from_parent(self, name="main", line=node.lineno - 1)


class TrainItem(pytest.Item):
    """A training as a test: passes when it ends well."""

    def __init__(self, *, line: int, **options: object) -> None:
        super().__init__(**options)
        self.line = line

    def runtest(self) -> None:
        from dl.mytorch import launch

        recipe = importlib.import_module(".".join(self.path.relative_to(self.config.rootpath).with_suffix("").parts))
        with self.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():  # show the progress
            launch(recipe.main, recipe.Config, self.config.getoption("--train-args").split())

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.line, f"train {self.path.parent.name}"


class RecordFile(pytest.File):
    """The record of a training, with `-m records`."""

    def collect(self) -> Iterator[pytest.Item]:
        item = RecordItem.from_parent(self, name="reproduces")
        item.add_marker("records")
        yield item


class RecordItem(pytest.Item):
    """A recorded training, as a test: passes when `python -m dl reproduce` finds it to hold."""

    def runtest(self) -> None:
        from dl.cli import records, reproduce

        model = "/".join(self.path.parts[-4:-2])
        outcome = reproduce.reproduce(next(record for record in records.of_model(model) if record["path"] == self.path))
        if outcome.missed:
            raise AssertionError(outcome.reason)
        if not outcome.met:
            pytest.skip(outcome.reason)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"reproduce {self.path.stem}"


def _is_record(path: Path) -> bool:
    return path.suffix == ".json" and path.parent.name == "results" and (path.parents[1] / "model.py").exists()


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[None]:
    collectors = yield
    if parent.config.option.markexpr == "records" and _is_record(file_path):
        return [RecordFile.from_parent(parent, path=file_path)]
    return [TrainFile.from_parent(parent, path=file_path)] if file_path.name == "train.py" else collectors


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: without this, a tenth of the time goes into looking through it again
    gc.set_threshold(20_000)  # and a network is many objects
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    trainings = [item for item in items if isinstance(item, TrainItem)]
    if config.getoption("--proof"):  # the standard checks compare with no twin
        items[:] = [item for item in items if not item.name.startswith("test_standard")]
    if config.getoption("--train"):
        named = any("::" in argument for argument in config.args)  # tests that were asked for by name run too
        if not named and not config.option.collectonly:
            config.hook.pytest_deselected(items=[item for item in items if item not in trainings])
            items[:] = trainings
    elif not _trains(config):
        for item in trainings:
            item.add_marker(pytest.mark.skip(reason="a training: select it alone, or --train"))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))
