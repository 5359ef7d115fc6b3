"""SAC: soft actor-critic, an actor that is rewarded for its reward and for staying uncertain, and two critics.

"Soft Actor-Critic Algorithms and Applications", Tuomas Haarnoja and others, 2018, https://arxiv.org/abs/1812.05905, sections 4
to 6: with the temperature that adjusts itself, and without the value network of the first paper
(https://arxiv.org/abs/1801.01290).

The actor gives means and standard deviations of normal numbers, whose tanh is the action: appendix C. The critics take an
observation and an action; the lower of the two is believed.

Presets: "mlp256" is the paper's, two hidden layers of 256 (appendix D); "tiny" is for tests.

Deviations: the logarithm of the standard deviation is kept between -20 and 2, as in the authors' code
(https://github.com/rail-berkeley/softlearning).
"""

import math
from typing import Any, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import sequential

# B observations, O numbers of one, A numbers of an action


def perceptron(inputs: int, widths: Sequence[int], outputs: int) -> nn.Sequential:
    """Linear layers with ReLU between them: (B, inputs) -> (B, outputs)."""
    sizes, layers = [inputs, *widths], {}
    for i, (wide, narrow) in enumerate(zip(sizes, widths), 1):
        layers |= {f"linear{i}": nn.Linear(wide, narrow), f"act{i}": nn.ReLU()}
    return sequential(**layers, output=nn.Linear(sizes[-1], outputs))


def log_slope(u: Tensor) -> Tensor:
    """Return log(1 - tanh(u)^2), in a form that neither overflows nor rounds to log 0: 2 (log 2 - u - softplus(-2 u))."""
    return 2 * (math.log(2) - u - F.softplus(-2 * u))


class Actor(nn.Module):
    """Observations (B, O) -> means (B, A) and logarithms of standard deviations (B, A) of what tanh makes an action."""

    def __init__(self, observation_size: int, action_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = perceptron(observation_size, widths, 2 * action_size)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.layers(observations).chunk(2, -1)
        return mean, log_std.clamp(-20, 2)

    def sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions in (-1, 1), (B, A), and log pi of them, (B,); `noise`: standard normal numbers (B, A).

        log pi(a) = log N(u) - sum over A of log(1 - tanh(u)^2), where a = tanh(u): appendix C, equation 26.
        """
        mean, log_std = self(observations)
        u = mean + log_std.exp() * noise
        log_normal = -noise.square() / 2 - log_std - math.log(2 * math.pi) / 2
        return u.tanh(), (log_normal - log_slope(u)).sum(-1)


class Critic(nn.Module):
    """Observations (B, O) and actions (B, A) in [-1, 1] -> their values by two networks, (2, B)."""

    def __init__(self, observation_size: int, action_size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.first, self.second = (perceptron(observation_size + action_size, widths, 1) for _ in range(2))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        x = torch.cat([observations, actions], -1)
        return torch.stack([self.first(x), self.second(x)]).squeeze(-1)


class Temperature(nn.Module):
    """alpha, which weighs the entropy against the reward; what is learned is its logarithm. () -> alpha, a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        return self.log_alpha.exp()


class SAC(nn.Module):
    """Actor, critics and temperature.

    Args:
        low, high: bounds of an action, (A,) numbers each.
    """

    def __init__(
        self,
        observation_size: int = 3,
        low: Sequence[float] = (-2.0,),
        high: Sequence[float] = (2.0,),
        widths: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.actor = Actor(observation_size, len(low), widths)
        self.critic = Critic(observation_size, len(low), widths)
        self.temperature = Temperature()
        self.register_buffer("low", torch.tensor(low), persistent=False)
        self.register_buffer("high", torch.tensor(high), persistent=False)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the actions (B, A) without noise, in [-1, 1], and both values of each, (2, B)."""
        actions = self.actor(observations)[0].tanh()
        return actions, self.critic(observations, actions)

    def act(self, observations: Tensor) -> Tensor:
        """Return the actions (B, A) without noise, in the units of the environment."""
        return self.in_units(self.actor(observations)[0].tanh())

    def in_units(self, actions: Tensor) -> Tensor:
        """Return actions (B, A) of [-1, 1] between `low` and `high`."""
        return self.low + (actions + 1) / 2 * (self.high - self.low)


PRESETS: dict[str, dict[str, Any]] = {"mlp256": {}, "tiny": {"widths": (8,)}}


def build(preset: str = "mlp256", **overrides: Any) -> SAC:
    """Return an agent by the name of its preset; `overrides` are arguments of `SAC`."""
    return SAC(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an observation of Pendulum, zeros (1, 3)."""
    return (torch.zeros(1, 3),)
