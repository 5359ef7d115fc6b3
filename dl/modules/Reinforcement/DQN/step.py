"""An iteration of learning from a replay: what was just done is one batch, and several updates follow, from other batches."""

from typing import Any

from torch import nn

from dl.mytorch.data import Batch
from dl.mytorch.distributed import to_device
from dl.mytorch.environments.replay import PrioritizedReplay
from dl.mytorch.tasks import StepOutput
from dl.mytorch.train_step import TrainStep


class QStep(TrainStep):
    """`config.updates` updates, each from `config.batch_size` transitions, once `config.learning_starts` steps were taken.

    Algorithm 1 of Mnih et al. 2015, where four steps of the environment and one update take turns.
    """

    def __init__(self, model: nn.Module, task: Any, *arguments: Any) -> None:
        super().__init__(model, task, *arguments)
        task.begin(self.model)

    def learn(self, batches: list[Batch]) -> None:
        for batch in batches:
            self.train_metrics.by_name["negative_return"].update(batch)
        if self.task.steps <= self.config.learning_starts:
            self.gradient_norm = self.first_bad.float()  # 0: nothing was learned yet
            return
        for _ in range(self.config.updates):
            batch = to_device(self.task.draw(self.config.batch_size), self.device)
            self.update([batch], self._step, self.optimizer)

    def _step(self, network: Any, batch: Batch) -> StepOutput:
        output = self.task.step(network, batch)
        if isinstance(self.task.replay, PrioritizedReplay):
            self.task.replay.update(batch["places"].cpu(), output.outputs["errors"].cpu())
        return output
