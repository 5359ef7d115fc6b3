"""Two networks that learn against each other: another step for the one training loop, which knows nothing of it."""

from typing import NamedTuple

from torch import nn

from dl.mytorch.data import Batch
from dl.mytorch.train_step import TrainStep


class Players(NamedTuple):
    """What a step calls: both networks of a model, each made ready by itself for several ranks."""

    generator: nn.Module
    discriminator: nn.Module


class AdversarialStep(TrainStep):
    """Trains a model of two networks, `generator` and `discriminator`, that have an optimizer each, in this order.

    Algorithm 1 of Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661, with k = `task.critic_steps`: in each step the
    discriminator learns; in each k-th then, against the new one, the generator. So each update of the discriminator sees new
    images. `task` has a step for each, `discriminator_step` and `generator_step`, which see `Players`. What an update is,
    however many batches and ranks it is spread over, when it is refused, and what is saved of both optimizers is up to
    `TrainStep` and `Trainer`.
    """

    def parallelized(self, model: nn.Module) -> Players:
        parts = Players(model.generator, model.discriminator)
        for part in parts:
            if self.config.compile:
                part.compile()
        return Players(*(super(AdversarialStep, self).parallelized(part) for part in parts))

    def learn(self, batches: list[Batch]) -> None:
        generator, discriminator = self.optimizers
        self.update(batches, self.task.discriminator_step, discriminator)
        if (self.steps_done + 1) % self.task.critic_steps == 0:
            self.update(batches, self.task.generator_step, generator)
