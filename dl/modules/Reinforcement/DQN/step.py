"""An iteration of Q-learning, after which a prioritized replay knows the new errors."""

from typing import Any

from dl.modules.Reinforcement.off_policy import OffPolicyStep
from dl.mytorch.data import Batch
from dl.mytorch.environments.replay import PrioritizedReplay
from dl.mytorch.tasks import StepOutput


class QStep(OffPolicyStep):
    """Algorithm 1 of Mnih et al. 2015, where four steps of the environment and one update take turns."""

    def improve(self, batch: Batch) -> None:
        self.update([batch], self._step, self.optimizer)

    def _step(self, network: Any, batch: Batch) -> StepOutput:
        output = self.task.step(network, batch)
        if isinstance(self.task.replay, PrioritizedReplay):
            self.task.replay.update(batch["places"].cpu(), output.outputs["errors"].cpu())
        return output
