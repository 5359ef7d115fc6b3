"""What all tests start from: a fixed seed, one thread, no network, tiny data. Loaded by conftest.py."""

import os
import socket
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dl.mytorch import plot
from dl.mytorch.data import Splits, synthetic
from dl.mytorch.distributed import seed_everything
from dl.mytorch.tasks import Classification
from dl.mytorch.vision import import_torchvision


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Each test starts from one seed, on one thread of the CPU (`--threads`), without network."""
    if not request.node.get_closest_marker("gpu"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        for device in (torch.cuda, torch.xpu, torch.mtia):  # each seed would be kept, with a stack trace, for when it is there
            monkeypatch.setattr(device, "manual_seed_all", lambda seed: None)

    monkeypatch.setattr(os, "fsync", lambda handle: None)  # files of a test need not survive a power cut
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):  # by which a loader's processes talk to each other
            raise OSError(f"tests stay off the network; something asked for {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.set_num_threads(request.config.getoption("--threads"))
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
