"""What a network of action values learns from: transitions out of a replay, and what its target network says came next."""

import copy
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Reinforcement.task import AgentTask, greedy
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


class QLearning(AgentTask):
    """Acts in `environments`, writes what happened into `replay`, and learns from what it draws there.

    Batches: "observations" (B, O), "actions" (B,), "rewards" (B,), "next_observations" (B, O), "discounts" (B,), see `Replay`;
    of a `PrioritizedReplay` also "places" (B,) and "weights" (B,).

    Args:
        epsilon: environment steps so far -> share of random actions.
        beta: environment steps so far -> exponent of the importance weights of a `PrioritizedReplay`.
        learning_starts: environment steps with random actions and no update.
        target_every: environment steps between two copies to the target network.
        double: the network that learns chooses the action whose value its target network tells.
    """

    def __init__(
        self,
        environments: Environments,
        replay: Replay,
        epsilon: Callable[[int], float],
        *,
        gamma: float = 0.99,
        n_step: int = 1,
        double: bool = False,
        beta: Callable[[int], float] = linear(0.4, 1.0, 1),
        learning_starts: int = 0,
        target_every: int = 1,
    ) -> None:
        super().__init__(environments)
        self.replay, self.epsilon, self.beta = replay, epsilon, beta
        self.gamma, self.n_step, self.double = gamma, n_step, double
        self.learning_starts, self.target_every = learning_starts, target_every
        self.steps = 0  # of the environments, so far

    def begin(self, model: nn.Module) -> None:
        """Act by `model` from now on; its target network is a copy."""
        self.model, self.target = model, copy.deepcopy(model).requires_grad_(False)

    # ---- acting ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self, steps: int) -> Batch:
        """Take at least `steps` steps of the environments, into the replay. Return their transitions as a batch."""
        taken = []
        for _ in range(-(-steps // len(self.environments))):
            taken.append(made := self.environments.step(self.act(self.environments.observations)))
            self.replay.add(**{name: field.numpy() for name, field in made._asdict().items() if name != "returns"})
            self.steps += len(self.environments)
            if self.steps // len(self.environments) % max(1, self.target_every // len(self.environments)) == 0:
                self.target.load_state_dict(self.model.state_dict())
        together = {name: torch.cat([getattr(made, name) for made in taken]) for name in taken[0]._fields}
        return together | {"discounts": self.gamma * ~together["terminated"]}

    def act(self, observations: Tensor) -> Tensor:
        """Observations (n, O) -> actions (n,): random ones with the chance epsilon, else those of the highest value."""
        epsilon = 1.0 if self.steps < self.learning_starts else self.epsilon(self.steps)
        at_random = self.environments.uniform() < epsilon
        drawn = (self.environments.uniform() * self.environments.spaces.num_actions).long()
        return drawn if at_random.all() else torch.where(at_random, drawn, greedy(self.model)(observations))

    # ---- learning --------------------------------------------------------------------------------------------------

    def draw(self, batch_size: int) -> Batch:
        """Return a batch out of the replay."""
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

    # ---- saving ----------------------------------------------------------------------------------------------------

    def own_state(self) -> dict[str, Any]:
        own = {"steps": self.steps, "target": self.target.state_dict(), "replay": self.replay.state()}
        return super().own_state() | own

    def load_own_state(self, state: dict[str, Any]) -> None:
        super().load_own_state(state)
        self.replay.load_state(state["replay"])
        self.target.load_state_dict(state["target"])
        self.steps = state["steps"]
