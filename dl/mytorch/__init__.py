"""The shared core: the one training loop and what it needs. It knows no model."""

from dl.mytorch.checkpoint import load_weights
from dl.mytorch.config import TrainConfig, parse
from dl.mytorch.distributed import launch, seed_everything
from dl.mytorch.introspect import Probe, layer_summary
from dl.mytorch.logger import History
from dl.mytorch.tasks import StepOutput, Task
from dl.mytorch.trainer import Trainer

__all__ = [
    "History",
    "Probe",
    "StepOutput",
    "Task",
    "TrainConfig",
    "Trainer",
    "launch",
    "layer_summary",
    "load_weights",
    "parse",
    "seed_everything",
]
