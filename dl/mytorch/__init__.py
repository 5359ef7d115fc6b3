"""The shared core: the one training loop and what it needs. It knows no model."""

import importlib
from typing import Any

from dl.mytorch.checkpoint import load_weights as load_weights
from dl.mytorch.config import TrainConfig as TrainConfig
from dl.mytorch.distributed import seed_everything as seed_everything
from dl.mytorch.logger import History as History
from dl.mytorch.tasks import StepOutput as StepOutput
from dl.mytorch.tasks import Task as Task
from dl.mytorch.trainer import Trainer as Trainer

# No part of the loop.
_LATER = {"launch": "launcher", "parse": "command_line", "Probe": "introspect", "layer_summary": "introspect"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
