"""What all tests share, see dl/fixtures.py; and `--train`, which trains for real."""

import gc
import importlib
import os
from pathlib import Path
from typing import Iterator

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("training")
    group.addoption("--train", action="store_true", help="collect train.py files instead of tests, and run them for real")
    group.addoption("--train-args", default="", metavar="ARGS", help="flags for these, say --train-args='--epochs 1'")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses", None):  # with `-n`, this process has no test, and its start need not wait for torch
        config.pluginmanager.import_plugin("dl.fixtures")


class TrainFile(pytest.File):
    """A recipe as a test: passes when training ends well."""

    def collect(self) -> Iterator[pytest.Item]:
        yield TrainItem.from_parent(self, name="train")


class TrainItem(pytest.Item):
    def runtest(self) -> None:
        from dl.mytorch import launch

        terminal = self.config.pluginmanager.get_plugin("capturemanager")
        recipe = importlib.import_module(".".join(self.path.relative_to(self.config.rootpath).with_suffix("").parts))
        with terminal.global_and_fixture_disabled():  # show the progress
            launch(recipe.main, recipe.Config, self.config.getoption("--train-args").split())

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"train {self.path.parent.name}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if parent.config.getoption("--train") and file_path.name == "train.py":
        return TrainFile.from_parent(parent, path=file_path)
    return None


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays: without this, a tenth of the time goes into looking through it again


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--train"):
        items[:] = [item for item in items if isinstance(item, TrainItem)]
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("default"))
    import torch  # by now the tests have brought it along

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))
