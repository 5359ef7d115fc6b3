"""What all tests start from: a fixed seed, one thread, no network, tiny data. Loaded by conftest.py."""

import functools
import gc
import importlib
import os
import socket
import sys
from pathlib import Path
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.utils.flop_counter  # has to be there for _spare_compiler
from torch.optim import Optimizer
from torch.testing import _comparison

from dl.mytorch import plot
from dl.mytorch.charts import Charts
from dl.mytorch.data import Splits, synthetic
from dl.mytorch.distributed import seed_everything
from dl.mytorch.tasks import Classification, Task
from dl.mytorch.torchvision_compat import import_torchvision


class _Compiler:
    """torch._dynamo, imported when more is asked of it than what torch.utils.checkpoint does."""

    config = SimpleNamespace(error_on_nested_fx_trace=True)
    disable = staticmethod(lambda function: function)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch._dynamo"), name)


def _spare_compiler() -> None:
    """Let parts of torch do without torch._dynamo, which takes as long to import as torch itself.

    Optimizers, counters of FLOPs and shapes of tensors without values only say to torch.compile what it shall leave alone;
    no test of the default tier compiles them.
    """
    marked = torch._disable_dynamo(lambda: None).__code__
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__ is marked:
            plain = function.__closure__[marked.co_freevars.index("fn")].cell_contents
            setattr(plain, "__dynamo_disable", plain)
    for kind in Optimizer.__subclasses__():
        if hasattr(kind.step, "__wrapped__"):
            kind.step = torch.no_grad()(kind.step.__wrapped__)
    torch._disable_dynamo = lambda function=None, recursive=True: (
        function or (lambda later: later)
    )  # what is defined from now on
    if "torch._dynamo" not in sys.modules:
        torch._dynamo = _Compiler()
    detect = torch._guards.detect_fake_mode  # a third of the time of `torch.load`
    torch._guards.detect_fake_mode = lambda inputs=None: detect(inputs) if "torch._dynamo" in sys.modules else None
    _comparison._HAS_DTENSOR = False  # `assert_close` would import these, which no test compares


_spare_compiler()


@pytest.fixture(autouse=True)
def _same_start(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Each test starts from one seed, on one thread of the CPU (`--threads`), without network."""
    if not request.node.get_closest_marker("gpu"):
        for backend in (torch.cuda, torch.backends.mps):
            absent = functools.wraps(backend.is_available)(lambda: False)  # torch._dynamo unwraps a cached function
            monkeypatch.setattr(backend, "is_available", absent)
        for device in (torch.cuda, torch.xpu, torch.mtia):  # each seed would be kept, with a stack trace, for when it is there
            monkeypatch.setattr(device, "manual_seed_all", lambda seed: None)

    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None):  # by which a loader's processes talk to each other
            raise OSError(f"tests stay off the network; something asked for {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no file of a test has to outlive the power
    torch.set_num_threads(request.config.getoption("--threads"))
    seed_everything(0)


class _Nowhere:
    """A writer whose every method does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Like `plots=False`, for what makes its own config: no drawing, no TensorBoard, which take most of a tiny run's time."""
    monkeypatch.setattr(Classification, "report", lambda task, model: {})
    monkeypatch.setattr(Charts, "_writer", lambda charts, split: _Nowhere())
    monkeypatch.setattr(plot, "curves", lambda history: None)
    monkeypatch.setattr(plot, "save_figure", lambda figure, path: Path(path).touch())


@pytest.fixture
def no_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task shows what its model does: figures, samples, translations."""
    kinds = [Task]
    for kind in kinds:
        kinds += kind.__subclasses__()
        for name in {"report", "preview"} & vars(kind).keys():
            monkeypatch.setattr(kind, name, lambda task, model: {})


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """The reference of most networks, without torch._dynamo, of which it asks one thing: whether a kernel can be compiled."""
    if "torch._dynamo" in sys.modules:
        return import_torchvision()
    asked = ModuleType("torch._dynamo.utils")
    asked.is_compile_supported = lambda device: False
    stand_ins = {"torch._dynamo": ModuleType("torch._dynamo"), "torch._dynamo.utils": asked}
    sys.modules.update(stand_ins)
    try:
        return import_torchvision()
    finally:
        for name in stand_ins:
            del sys.modules[name]


@pytest.fixture
def tiny_images() -> Splits:
    """50 + 17 + 19 images (1, 28, 28) of 10 classes, in batches of 16."""
    return synthetic.image_splits()


@pytest.fixture
def tiny_color_images() -> Splits:
    """Return synthetic images with 3 channels of 32 x 32."""
    return synthetic.image_splits(channels=3, size=32)
