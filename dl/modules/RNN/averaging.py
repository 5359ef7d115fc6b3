"""SGD whose weights are averaged from the moment on when it no longer gets better."""

from typing import Any, Callable

from torch.optim.swa_utils import AveragedModel

from dl.mytorch import Trainer
from dl.mytorch.data import Batch
from dl.mytorch.train_step import TrainStep


class AveragingStep(TrainStep):
    """A step whose mean of the weights begins when `triggered`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.ema = AveragedModel(self.model)  # a mean with equal weights
        self.triggered: Callable[[], bool] = lambda: False

    def learn(self, batches: list[Batch]) -> None:
        if not self.triggered():
            self.ema.n_averaged.zero_()  # the mean restarts from the weights themselves
        super().learn(batches)


class AveragingTrainer(Trainer):
    """NT-ASGD: Merity, Keskar & Socher 2017, https://arxiv.org/abs/1708.02182, algorithm 1.

    Once an evaluation is worse than the best of those more than `patience` before it (the paper's n), what is evaluated
    and kept is the mean of the weights after each step since. Whether it is so is read from the history alone, so a run
    resumes exactly. Not for `--ema`, `--layerwise` and `--parallel fsdp`.
    """

    patience = 5

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, step=AveragingStep, **options)
        self.step.triggered = self.triggered

    def triggered(self) -> bool:
        """Return whether the mean has begun."""
        values = [record["val"][self.task.monitor] for record in self.history]
        return any(value > min(values[: i - self.patience]) for i, value in enumerate(values) if i > self.patience)
