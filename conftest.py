"""What all tests share: a fixed seed, one thread, no network, tiny data; and `--train`, which trains for real."""

import gc
import importlib
import os
import socket
from pathlib import Path
from types import ModuleType
from typing import Any, Iterator

import pytest
import torch

from dl.mytorch import launch, plot
from dl.mytorch.data import Splits, synthetic
from dl.mytorch.distributed import seed_everything
from dl.mytorch.tasks import Classification
from dl.mytorch.vision import import_torchvision

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("training")
    group.addoption("--train", action="store_true", help="collect train.py files instead of tests, and run them for real")
    group.addoption("--train-args", default="", metavar="ARGS", help="flags for these, say --train-args='--epochs 1'")


class TrainFile(pytest.File):
    """A recipe as a test: passes when training ends well."""

    def collect(self) -> Iterator[pytest.Item]:
        yield TrainItem.from_parent(self, name="train")


class TrainItem(pytest.Item):
    def runtest(self) -> None:
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
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Each test starts from one seed, on one thread of the CPU, where the same sums give the same bits; without network."""
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):  # by which a loader's processes talk to each other
            raise OSError(f"tests stay off the network; something asked for {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.set_num_threads(1)
    seed_everything(0)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without drawing, which would take most of a tiny run's time and has tests of its own."""
    monkeypatch.setattr(Classification, "report", lambda task, model: {})
    monkeypatch.setattr(plot, "curves", lambda history: None)
    monkeypatch.setattr(plot, "save_figure", lambda figure, path: Path(path).touch())


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """The reference of most networks. A second to import, which tests that do without are spared."""
    return import_torchvision()


@pytest.fixture
def tiny_images() -> Splits:
    """50 + 17 + 19 images (1, 28, 28) of 10 classes, in batches of 16."""
    return synthetic.image_splits()


@pytest.fixture
def tiny_color_images() -> Splits:
    """The same with 3 channels of 32 x 32."""
    return synthetic.image_splits(channels=3, size=32)
