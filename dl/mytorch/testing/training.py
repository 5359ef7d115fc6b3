"""A small run and what it leaves, for tests of the training loop."""

from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch import Task, TrainConfig, Trainer, checkpoint, layers
from dl.mytorch.data import Batch, synthetic
from dl.mytorch.optim import Schedule, constant, sgd
from dl.mytorch.tasks import Classification


class Scaled(nn.Module):
    """A linear layer times a parameter; `use` says what becomes of the parameter and of the result."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.fc(x.flatten(1)), self.scale)


def small_batch() -> Batch:
    torch.manual_seed(1)
    return {"images": torch.randn(6, 1, 2, 2), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}


def read_events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value), as TensorBoard reads them."""
    events = read_events(folder)
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def small_model(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return layers.sequential(
        conv=nn.Conv2d(1, 4, 5, stride=4), act=nn.ReLU(), flat=nn.Flatten(), drop=nn.Dropout(dropout), fc=nn.Linear(144, 10)
    )


def small_config(out: Path, **changes: Any) -> TrainConfig:
    own = {"out": str(out), "data": "synthetic", "epochs": 3, "batch_size": 16, "lr": 0.05, "log_every": 2, "plots": False}
    return TrainConfig(**(own | changes))


def trainer_for(
    config: TrainConfig, task: Task | None = None, schedule: Schedule | None = None, dropout: float = 0.0
) -> Trainer:
    optimizer = sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay)
    return Trainer(small_model(dropout), task or Classification(), optimizer, schedule or constant(), config)


def fit(config: TrainConfig, task: Task | None = None, **options: Any) -> Trainer:
    """Return a finished run on the tiny images; `history` and `model` are asked of the trainer."""
    trainer = trainer_for(config, task, **options)
    trainer.fit(synthetic.image_splits(batch_size=config.batch_size))
    return trainer


def last_weights(trainer: Trainer) -> Batch:
    return checkpoint.load(trainer.out / "last.pt")["model"]


def weights_after_each_step(trainer: Trainer) -> list[Batch]:
    """Return a list that fills up while the trainer trains."""
    weights = []
    step = trainer.step.learn

    def watched(batches: list[Batch]) -> None:
        step(batches)
        weights.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})

    trainer.step.learn = watched  # type: ignore[method-assign]
    return weights


def assert_close(a: Batch, b: Batch, tolerance: float) -> None:
    for name in a:
        assert (a[name] - b[name]).abs().max() <= tolerance, name


def stopped_run(config: TrainConfig, stop: Any, task: Task | None = None) -> int | str | None:
    """Start the run, let `stop` act in the optimizer step it likes, and give the exit status."""
    trainer = trainer_for(config, task, dropout=0.5)
    step = trainer.step.learn

    def watched(batches: list[Batch]) -> None:
        stop(trainer)
        step(batches)

    trainer.step.learn = watched  # type: ignore[method-assign]
    with pytest.raises(SystemExit) as exit_:
        trainer.fit(synthetic.image_splits(batch_size=config.batch_size))
    return exit_.value.code
