"""What agents share that learn from a replay: their flags, acting into the replay, and an iteration of acting and learning."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Reinforcement.recipe import AgentConfig
from dl.modules.Reinforcement.task import AgentTask
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Batch
from dl.mytorch.distributed import to_device, world_size
from dl.mytorch.environments import Environments
from dl.mytorch.environments.replay import Replay
from dl.mytorch.train_step import TrainStep

# n environments, B transitions


@dataclass(frozen=True)
class OffPolicyConfig(AgentConfig):
    """What a recipe of an agent with a replay can be told beside."""

    num_envs: int = 1
    train_every: int = flag(1, "environment steps of an iteration, after which the agent learns")
    updates: int = flag(1, "updates of an iteration")
    n_step: int = flag(1, "rewards that are added up before a value stands for what follows")
    capacity: int = flag(100_000, "transitions in the replay")
    learning_starts: int = flag(1000, "environment steps with random actions before the first update")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_every", "updates", "n_step", "capacity"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("learning_starts", self.learning_starts >= 0, "0 or more")
        self._check("parallel", self.parallel == "none", "none: one process fills the replay")


def make_replay(config: OffPolicyConfig, environments: Environments, kind: Any = Replay) -> Replay:
    """Return a replay of a `kind`, with room for what is written between two saves. Raises `UserError` for several ranks."""
    if world_size() > 1:
        raise UserError("an agent with a replay trains in one process: start it without torchrun")
    spaces = environments.spaces
    rows = partial(_rows, len(environments))
    total = rows(config.steps * config.train_every or config.env_steps)
    spare = min(config.save_every * rows(config.train_every) or total, total)
    action = ((), "int64") if spaces.num_actions else ((spaces.action_size,), "float32")
    observation = ((spaces.observation_size,), "float32")
    path = Path(config.out) / "replay.bin"
    return kind(path, min(rows(config.capacity), total), spare, observation, action, num_envs=len(environments))


def _rows(num_envs: int, steps: int) -> int:
    return math.ceil(steps / num_envs)


class OffPolicyTask(AgentTask):
    """Acts in `environments`, writes what happened into `replay`, and learns from what it draws there.

    Batches: "observations" (B, O), "actions" (B,) or (B, A), "rewards" (B,), "next_observations" (B, O), "discounts" (B,): see
    `Replay`. A subclass gives `explore` and `make_target`, and may act after each step of the environments (`stepped`).
    """

    def __init__(
        self, environments: Environments, replay: Replay, gamma: float = 0.99, n_step: int = 1, learning_starts: int = 0
    ) -> None:
        super().__init__(environments)
        self.replay, self.gamma, self.n_step, self.learning_starts = replay, gamma, n_step, learning_starts
        self.steps = 0  # of the environments, so far

    def begin(self, model: nn.Module) -> None:
        """Act by `model` from now on, with a target network that shares nothing with it."""
        self.model, self.target = model, self.make_target(model).requires_grad_(False)

    def make_target(self, model: nn.Module) -> nn.Module:
        """Return a copy of what of `model` the targets of updates are computed by."""
        raise NotImplementedError

    def explore(self, observations: Tensor) -> Tensor:
        """Observations (n, O) -> the actions (n, ...) to learn from, as the replay has them."""
        raise NotImplementedError

    def to_environment(self, actions: Tensor) -> Tensor:
        """Return actions of the replay in the units of the environment."""
        return actions

    def stepped(self) -> None:
        """Called after each step of the environments."""

    @torch.no_grad()
    def collect(self, steps: int) -> Batch:
        """Take at least `steps` steps of the environments, into the replay. Return their transitions as a batch."""
        taken = []
        for _ in range(_rows(len(self.environments), steps)):
            actions = self.explore(self.environments.observations)
            made = self.environments.step(self.to_environment(actions))._replace(actions=actions)
            self.replay.add(**{name: field.numpy() for name, field in made._asdict().items() if name != "returns"})
            taken.append(made)
            self.steps += len(self.environments)
            self.stepped()
        together = {name: torch.cat([getattr(made, name) for made in taken]) for name in taken[0]._fields}
        return together | {"discounts": self.gamma * ~together["terminated"]}

    def draw(self, batch_size: int) -> Batch:
        """Return a batch out of the replay."""
        return self.replay.gather(self.replay.draw(batch_size), self.gamma, self.n_step)

    def own_state(self) -> dict[str, Any]:
        own = {"steps": self.steps, "target": self.target.state_dict(), "replay": self.replay.state()}
        return super().own_state() | own

    def load_own_state(self, state: dict[str, Any]) -> None:
        super().load_own_state(state)
        self.replay.load_state(state["replay"])
        self.target.load_state_dict(state["target"])
        self.steps = state["steps"]


class OffPolicyStep(TrainStep):
    """An iteration: what was just done is the loop's batch; `config.updates` updates follow, each from a batch of the replay.

    Nothing is learned before `config.learning_starts` environment steps. A subclass whose update is several overrides
    `improve`.
    """

    def __init__(self, model: nn.Module, task: OffPolicyTask, *arguments: Any) -> None:
        super().__init__(model, task, *arguments)
        self.gradient_norm = torch.zeros(())  # of updates before the first
        task.begin(self.model)

    def learn(self, batches: list[Batch]) -> None:
        for batch in batches:
            self.train_metrics.by_name["negative_return"].update(batch)
        for _ in range(self.config.updates if self.task.steps > self.config.learning_starts else 0):
            self.improve(to_device(self.task.draw(self.config.batch_size), self.device))

    def improve(self, batch: Batch) -> None:
        """Make one update from a batch of the replay."""
        self.update([batch], self.task.step, self.optimizer)
