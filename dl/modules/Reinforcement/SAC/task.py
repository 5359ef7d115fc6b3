"""What the critics, the actor and the temperature of SAC learn from a batch of the replay."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Reinforcement.off_policy import OffPolicyTask
from dl.modules.Reinforcement.SAC.model import SAC
from dl.mytorch.data import Batch
from dl.mytorch.environments import Environments
from dl.mytorch.environments.replay import Replay
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput

# B transitions, A numbers of an action, n environments


class SoftActorCritic(OffPolicyTask):
    """An agent of continuous actions that learns from a replay. "actions" (B, A) of a batch are in [-1, 1].

    A batch has "noise" and "next_noise" (B, A), standard normal numbers, by which the actor's actions are drawn.

    Args:
        tau: how far the target critics move towards the critics at each update.
    """

    def __init__(self, environments: Environments, replay: Replay, *, tau: float = 0.005, **options: Any) -> None:
        super().__init__(environments, replay, **options)
        self.tau = tau

    def make_target(self, model: SAC) -> nn.Module:
        self.critics = list(model.critic.parameters())
        return copy.deepcopy(model.critic)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the target critics by `tau` of their distance to the critics."""
        torch._foreach_lerp_(list(self.target.parameters()), self.critics, self.tau)

    # ---- acting ----------------------------------------------------------------------------------------------------

    def explore(self, observations: Tensor) -> Tensor:
        """Observations (n, O) -> actions (n, A) in [-1, 1] as the actor draws them; until learning starts uniform ones."""
        size = self.environments.spaces.action_size
        if self.steps < self.learning_starts:
            return 2 * torch.stack([self.environments.uniform() for _ in range(size)], -1).float() - 1
        device = self.model.low.device
        return self.model.actor.sample(observations.to(device), self.environments.normal(size).to(device))[0].cpu()

    def to_environment(self, actions: Tensor) -> Tensor:
        return self.model.in_units(actions.to(self.model.low.device)).cpu()

    # ---- learning --------------------------------------------------------------------------------------------------

    def draw(self, batch_size: int) -> Batch:
        batch = super().draw(batch_size)
        return batch | {"noise": torch.randn_like(batch["actions"]), "next_noise": torch.randn_like(batch["actions"])}

    def critic_step(self, model: SAC, batch: Batch) -> StepOutput:
        """Return half the squared errors of both critics (equation 5), whose target is that of equation 3, the lower of two."""
        with torch.no_grad():
            actions, log_probs = model.actor.sample(batch["next_observations"], batch["next_noise"])
            after = self.target(batch["next_observations"], actions).amin(0) - model.temperature() * log_probs
            y = batch["rewards"] + batch["discounts"] * after
        errors = model.critic(batch["observations"], batch["actions"]) - y  # (2, B)
        losses = errors.square().sum(0) / 2
        return StepOutput(losses.mean(), len(losses), {"critic_loss": losses.detach()})

    def actor_step(self, model: SAC, batch: Batch) -> StepOutput:
        """Return alpha log pi(a) - the lower value of a, by which the actor learns (equation 9); the critics are only asked."""
        actions, log_probs = model.actor.sample(batch["observations"], batch["noise"])
        self.log_probs = log_probs.detach()  # for the temperature, whose step comes next
        model.critic.requires_grad_(False)
        values = model.critic(batch["observations"], actions).amin(0)
        model.critic.requires_grad_(True)
        losses = model.temperature().detach() * log_probs - values
        return StepOutput(losses.mean(), len(losses), {"actor_loss": losses.detach()})

    def temperature_step(self, model: SAC, batch: Batch) -> StepOutput:
        """Return -log alpha (log pi(a) - A): the temperature rises where the entropy is below -A (equation 18).

        The paper has alpha in the place of log alpha, its authors' code log alpha, as here.
        """
        losses = -model.temperature.log_alpha * (self.log_probs - batch["actions"].shape[-1])
        return StepOutput(losses.mean(), len(losses), {"temperature_loss": losses.detach()})

    def step(self, model: SAC, batch: Batch) -> StepOutput:
        """Return the sum of the three losses, of which each network sees its own: for a look at the whole."""
        noise = torch.zeros_like(batch["actions"])
        batch = {"noise": noise, "next_noise": noise, **batch}
        steps = (self.critic_step, self.actor_step, self.temperature_step)
        return StepOutput(sum(step(model, batch).loss for step in steps), len(batch["actions"]), {})

    def train_metrics(self) -> dict[str, Metric]:
        losses = ("critic_loss", "actor_loss", "temperature_loss")
        return self.metrics() | {name: OwnLoss(name) for name in losses}


class OwnLoss(Mean):
    """The mean of `outputs[key]` over those outputs that have it: each of the three steps tells of its own loss alone."""

    def update(self, outputs: Batch) -> None:
        if self.key in outputs:
            super().update(outputs)
