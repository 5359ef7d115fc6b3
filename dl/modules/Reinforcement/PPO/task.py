"""Rollouts with advantages, and the clipped loss on a minibatch of them."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Reinforcement.PPO.model import Categorical, Gaussian
from dl.modules.Reinforcement.task import AgentTask
from dl.mytorch.data import Batch
from dl.mytorch.environments import Environments, Transitions
from dl.mytorch.gathering import gather_rows
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput

# T steps, N environments, O numbers of an observation, K parameters of a distribution, B rows of a minibatch


def gae(
    rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, lam: float
) -> Tensor:
    """Return generalized advantage estimates, all (T, N): https://arxiv.org/abs/1506.02438, equations 11 and 16.

    `next_values` are of what followed each step, V of the final observation included. Where an episode was terminated there
    is no value to come; where it was truncated there is, but the sum over later steps ends, since these are of another one.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    goes_on = gamma * lam * (~(terminated | truncated)).to(deltas)  # of bools it would be float32
    advantages, later = torch.empty_like(deltas), torch.zeros_like(deltas[0])
    for t in reversed(range(len(deltas))):
        later = deltas[t] + goes_on[t] * later
        advantages[t] = later
    return advantages


def clipped_loss(ratios: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return the policy's loss of each row, (B,): equation 7, of which the least is taken."""
    return -torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)


class PPO(AgentTask):
    """An agent that learns from what it did in the last `rollout_steps` steps of each environment.

    Batches, a row for each step of each environment, those of one environment after another: "observations" (B, O),
    "actions" (B,) or (B, A), "log_probs" (B,) of the policy that took them, "advantages" (B,), "targets" (B,) of the values,
    "returns" (B,) of the episode that ended there, else NaN.

    Args:
        gamma, lam: of `gae`.
        clip: how far a ratio may be from 1 and still matter, at the start; `falling` times that is in use.
        value_weight, entropy_weight: of equation 9.
        seed: of the order of minibatches.
    """

    def __init__(
        self,
        environments: Environments,
        rollout_steps: int = 32,
        gamma: float = 0.98,
        lam: float = 0.8,
        clip: float = 0.2,
        value_weight: float = 0.5,
        entropy_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(environments)
        self.distribution = Categorical if environments.spaces.num_actions else Gaussian
        self.rollout_steps, self.gamma, self.lam, self.clip = rollout_steps, gamma, lam, clip
        self.value_weight, self.entropy_weight = value_weight, entropy_weight
        self.falling = 1.0  # the share of the clip range in use, see PPOStep
        self.generator = torch.Generator().manual_seed(seed)

    # ---- what the agent does ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self, model: nn.Module) -> Batch:
        """Act for `rollout_steps` steps in each environment; the rows of all ranks."""
        device = next(model.parameters()).device
        steps, values, log_probs = [], [], []
        for _ in range(self.rollout_steps):
            parameters, value = model(self.environments.observations.to(device))
            actions = self.distribution(parameters.cpu()).sample(self._noise())  # in float64, which not every device has
            log_probs.append(self.distribution(parameters).log_prob(actions.to(device)))
            values.append(value)
            steps.append(self.environments.step(actions))
        made = Transitions(*map(torch.stack, zip(*steps)))  # (T, n, ...)
        values, log_probs = torch.stack(values).cpu(), torch.stack(log_probs).cpu()
        advantages = gae(
            made.rewards, values, self._next_values(model, made, values), made.terminated, made.truncated, self.gamma, self.lam
        )
        rows = {"observations": made.observations, "actions": made.actions, "log_probs": log_probs, "advantages": advantages}
        rows |= {"targets": advantages + values, "returns": made.returns}
        by_environment = gather_rows({name: tensor.transpose(0, 1) for name, tensor in rows.items()})  # (N, T, ...)
        return {name: tensor.flatten(0, 1) for name, tensor in by_environment.items()}

    def _noise(self) -> Tensor:
        """Return what `sample` takes for each environment of this rank."""
        size = self.environments.spaces.action_size
        return self.environments.normal(size) if size else self.environments.uniform()

    def _next_values(self, model: nn.Module, made: Transitions, values: Tensor) -> Tensor:
        """Return the values (T, n) of what followed each step; where that was terminated they do not count."""
        device = next(model.parameters()).device
        last = model(self.environments.observations.to(device))[1].cpu()
        following = torch.cat([values[1:], last[None]])
        if made.truncated.any():  # what followed is not what the next step begins with
            following[made.truncated] = model(made.next_observations[made.truncated].to(device))[1].cpu()
        return following

    # ---- what it learns --------------------------------------------------------------------------------------------

    def minibatches(self, rows: int, size: int) -> tuple[Tensor, ...]:
        """Return the numbers of all `rows` in a new order, in parts of `size`, of which the last may be smaller."""
        return torch.randperm(rows, generator=self.generator).split(size)

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return equation 9 with the other sign; advantages are taken as they are."""
        parameters, values = model(batch["observations"])
        policy = self.distribution(parameters)
        log_ratios = policy.log_prob(batch["actions"]) - batch["log_probs"]
        ratios, entropies = log_ratios.exp(), policy.entropy()
        errors = (values - batch["targets"]).square()
        losses = clipped_loss(ratios, batch["advantages"], self.clip * self.falling)
        losses = losses + self.value_weight * errors - self.entropy_weight * entropies
        shown = {"value_loss": errors, "entropy_loss": -entropies, "approx_kl": ratios - 1 - log_ratios}
        outputs = {name: tensor.detach() for name, tensor in shown.items()} | {"returns": batch["returns"]}
        return StepOutput(losses.mean(), len(losses), outputs)

    def train_metrics(self) -> dict[str, Metric]:
        return self.metrics() | {name: Mean(name) for name in ("value_loss", "entropy_loss", "approx_kl")}

    def own_state(self) -> dict[str, Any]:
        return super().own_state() | {"minibatches": self.generator.get_state()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        super().load_own_state(state)
        self.generator.set_state(state["minibatches"])
