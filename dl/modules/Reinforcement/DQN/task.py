"""What a network of action values learns from: transitions out of a replay, and what its target network says came next."""

import copy
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Reinforcement.off_policy import OffPolicyTask
from dl.modules.Reinforcement.task import greedy
from dl.mytorch.data import Batch
from dl.mytorch.environments import Environments
from dl.mytorch.environments.replay import PrioritizedReplay, Replay
from dl.mytorch.tasks import StepOutput

# B transitions, A actions, n environments


def td_target(rewards: Tensor, discounts: Tensor, target_next: Tensor, chosen_by: Tensor) -> Tensor:
    """y = r + discount Q_target(s', argmax_a of `chosen_by`(s', a)), (B,), of (B,), (B,), (B, A), (B, A).

    chosen_by: `target_next` itself (Mnih et al. 2015, algorithm 1), or the values of the network that learns (double DQN: van
    Hasselt et al. 2016, https://arxiv.org/abs/1509.06461, equation 4). The discount of a terminated episode is 0.
    """
    return rewards + discounts * target_next.gather(1, chosen_by.argmax(1, keepdim=True)).squeeze(1)


def linear(start: float, end: float, steps: float) -> Callable[[int], float]:
    """Return what goes from `start` to `end` within `steps`, and stays there."""
    return lambda step: start + (end - start) * min(1.0, step / max(steps, 1.0))


class QLearning(OffPolicyTask):
    """An agent that takes the action of the highest value, but for a share `epsilon` of random ones.

    Batches of a `PrioritizedReplay` also have "places" (B,) in it and "weights" (B,).

    Args:
        epsilon, beta: environment steps so far -> share of random actions; exponent of the weights of a `PrioritizedReplay`.
        double: the network that learns chooses the action whose value its target network tells.
        target_every: environment steps between two copies to the target network.
    """

    def __init__(
        self,
        environments: Environments,
        replay: Replay,
        epsilon: Callable[[int], float],
        *,
        beta: Callable[[int], float] = linear(0.4, 1.0, 1),
        double: bool = False,
        target_every: int = 1,
        **options: Any,
    ) -> None:
        super().__init__(environments, replay, **options)
        self.epsilon, self.beta, self.double, self.target_every = epsilon, beta, double, target_every

    def make_target(self, model: nn.Module) -> nn.Module:
        return copy.deepcopy(model)

    def stepped(self) -> None:
        envs = len(self.environments)
        if self.steps // envs % max(1, self.target_every // envs) == 0:
            self.target.load_state_dict(self.model.state_dict())

    def explore(self, observations: Tensor) -> Tensor:
        """Observations (n, O) -> actions (n,): random ones with the chance epsilon, else those of the highest value."""
        epsilon = 1.0 if self.steps < self.learning_starts else self.epsilon(self.steps)
        at_random = self.environments.uniform() < epsilon
        drawn = (self.environments.uniform() * self.environments.spaces.num_actions).long()
        return drawn if at_random.all() else torch.where(at_random, drawn, greedy(self.model)(observations))

    def draw(self, batch_size: int) -> Batch:
        places = self.replay.draw(batch_size)
        batch = self.replay.gather(places, self.gamma, self.n_step)
        if isinstance(self.replay, PrioritizedReplay):
            batch |= {"places": places, "weights": self.replay.weights(places, self.beta(self.steps))}
        return batch

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the mean Huber loss of the TD errors, which has a gradient of at most 1 for each (the paper's clipping)."""
        with torch.no_grad():
            after = self.target(batch["next_observations"])
            chosen_by = model(batch["next_observations"]) if self.double else after
            y = td_target(batch["rewards"], batch["discounts"], after, chosen_by)
        values = model(batch["observations"]).gather(1, batch["actions"][:, None]).squeeze(1)
        losses = F.huber_loss(values, y, reduction="none") * batch.get("weights", 1.0)
        return StepOutput(losses.mean(), len(losses), {"errors": (values - y).detach()})
