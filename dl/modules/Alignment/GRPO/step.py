"""One iteration: the model answers, then learns from its answers."""

from dl.mytorch.data import Batch
from dl.mytorch.train_step import TrainStep


class GRPOStep(TrainStep):
    """A rollout on the prompts of a batch, and `config.update_epochs` updates on it.

    Where no group carries signal there is nothing to learn: the weights stay, and the step counts. Dropout is off in both, so
    that the policy which learns is the one that answered.
    """

    def learn(self, batches: list[Batch]) -> None:
        (batch,) = batches
        self.model.eval()
        with self.autocast():
            rollout = self.task.rollout(self.model, batch["pairs"], self.steps_done)
        if len(rollout["advantages"]) == 0:
            self.gradient_norm = rollout["rewards"].new_zeros(())
            self.train_metrics.update(rollout["rewards"].new_zeros(()), rollout["rewards"].numel(), self.task.measured(rollout))
            return
        for _ in range(self.config.update_epochs):
            self.update([rollout], self.task.step, self.optimizer)
