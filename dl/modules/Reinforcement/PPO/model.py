"""PPO: proximal policy optimization, an actor and a critic.

"Proximal Policy Optimization Algorithms", John Schulman, Filip Wolski, Prafulla Dhariwal, Alec Radford, Oleg Klimov, 2017,
https://arxiv.org/abs/1707.06347, sections 3 and 5, with two separate networks as in its section 6.1.

The actor gives the parameters of a distribution over actions, the critic the value of the state: two perceptrons with tanh
that share nothing. Discrete actions have logits; continuous ones are normal, with a standard deviation that is learnt, but
the same in each state.

Presets: "mlp64" is the paper's, two hidden layers of 64; "tiny" is for tests.

Deviations: weights are orthogonal, as in the authors' code (https://github.com/openai/baselines), of which the paper says
nothing: gain sqrt(2) inside, 0.01 for actions, 1 for the value.
"""

import math
from typing import Any, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import sequential

# B observations, O numbers of one, A numbers of an action, K parameters of a distribution


class Categorical:
    """Distributions over K discrete actions, from logits (B, K). Actions are (B,) integers."""

    def __init__(self, logits: Tensor) -> None:
        self.log_p = F.log_softmax(logits, -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log pi(a), (B,)."""
        return self.log_p.gather(-1, actions[:, None]).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropies, (B,), in nats."""
        return -(self.log_p.exp() * self.log_p).sum(-1)

    def mode(self) -> Tensor:
        """Return the most probable actions."""
        return self.log_p.argmax(-1)

    def sample(self, uniform: Tensor) -> Tensor:
        """Return the actions at `uniform` (B,) in [0, 1) of the cumulative distribution."""
        below = self.log_p.exp().cumsum(-1) <= uniform[:, None]
        return below.sum(-1).clamp(max=self.log_p.shape[-1] - 1)  # the sum of all may round to less than 1


class Gaussian:
    """Independent normal distributions, from means and the logarithms of standard deviations (B, 2 A). Actions are (B, A)."""

    def __init__(self, parameters: Tensor) -> None:
        self.mean, self.log_std = parameters.chunk(2, -1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log pi(a), (B,), of actions that are not clipped."""
        z = (actions - self.mean) / self.log_std.exp()
        return (-z.square() / 2 - self.log_std - math.log(2 * math.pi) / 2).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropies, (B,), in nats."""
        return (self.log_std + (1 + math.log(2 * math.pi)) / 2).sum(-1)

    def mode(self) -> Tensor:
        """Return the means."""
        return self.mean

    def sample(self, normal: Tensor) -> Tensor:
        """Return mean + std * `normal`, standard normal numbers (B, A)."""
        return self.mean + self.log_std.exp() * normal


def perceptron(inputs: int, widths: Sequence[int], outputs: int, gain: float) -> nn.Sequential:
    """Linear layers with tanh between them: (B, inputs) -> (B, outputs). Orthogonal weights, `gain` for the last."""
    sizes = [inputs, *widths]
    layers: dict[str, nn.Module] = {}
    for i, (wide, narrow) in enumerate(zip(sizes, sizes[1:]), 1):
        layers |= {f"linear{i}": nn.Linear(wide, narrow), f"act{i}": nn.Tanh()}
    layers["output"] = nn.Linear(sizes[-1], outputs)
    for name, layer in layers.items():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain if name == "output" else math.sqrt(2))
            nn.init.zeros_(layer.bias)
    return sequential(**layers)


class ActorCritic(nn.Module):
    """Observations (B, O) -> parameters (B, K) of `distribution`, and values (B,).

    Args:
        num_actions: of discrete actions; 0 for continuous ones of `action_size` numbers.
        widths: of the hidden layers of both networks.
    """

    def __init__(
        self, observation_size: int = 4, num_actions: int = 2, action_size: int = 0, widths: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        self.distribution = Categorical if num_actions else Gaussian
        self.actor = perceptron(observation_size, widths, num_actions or action_size, gain=0.01)
        self.critic = perceptron(observation_size, widths, 1, gain=1.0)
        self.log_std = None if num_actions else nn.Parameter(torch.zeros(action_size))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        parameters = self.actor(observations)
        if self.log_std is not None:
            parameters = torch.cat([parameters, self.log_std.expand_as(parameters)], -1)  # (B, A) -> (B, 2 A)
        return parameters, self.critic(observations).squeeze(-1)

    def act(self, observations: Tensor) -> Tensor:
        """Return the most probable actions: (B, O) -> (B,) integers from 0, or (B, A)."""
        return self.distribution(self(observations)[0]).mode()


PRESETS: dict[str, dict[str, Any]] = {"mlp64": {}, "tiny": {"widths": (8,)}}


def build(preset: str = "mlp64", **overrides: Any) -> ActorCritic:
    """Return an actor and a critic by the name of their preset; `overrides` are arguments of `ActorCritic`."""
    return ActorCritic(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an observation of CartPole, zeros (1, 4)."""
    return (torch.zeros(1, 4),)
