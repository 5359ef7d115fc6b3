"""One iteration: several epochs of minibatches on what the agent has just done."""

from dl.mytorch.data import Batch
from dl.mytorch.distributed import data_rank, data_world_size
from dl.mytorch.train_step import TrainStep


class PPOStep(TrainStep):
    """Algorithm 1 of the paper: K epochs over a rollout, in minibatches, each an update.

    Advantages are normalised in each minibatch, over all ranks, to mean 0 and standard deviation 1; a minibatch of one row,
    which has none, is left alone. The clip range falls as the learning rate does. `config` has "update_epochs", the K.
    """

    def learn(self, batches: list[Batch]) -> None:
        (rollout,) = batches  # of all ranks
        group = self.optimizer.param_groups[0]
        self.task.falling = group["lr"] / group["initial_lr"]
        for _ in range(self.config.update_epochs):
            for rows in self.task.minibatches(len(rollout["advantages"]), self.config.batch_size):
                batch = {name: tensor[rows.to(tensor.device)] for name, tensor in rollout.items()}
                if len(rows) > 1:
                    advantages = batch["advantages"]
                    batch["advantages"] = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                own = {name: tensor[data_rank() :: data_world_size()] for name, tensor in batch.items()}
                self.update([own], self.task.step, self.optimizer)
