"""DQN: a network that tells the value of each action, learned from its own estimate of what comes after.

"Human-level control through deep reinforcement learning", Volodymyr Mnih and others, 2015,
https://www.nature.com/articles/nature14236. Dueling heads: "Dueling Network Architectures for Deep Reinforcement Learning",
Ziyu Wang et al., 2016, https://arxiv.org/abs/1511.06581, equation 9.

Presets: "atari" is the paper's (extended data, table 1): the last four frames through three convolutions. "classic" is for
observations of a few numbers, two layers of 256 as the tuned agents of rl-baselines3-zoo have them for CartPole.

Deviations: none in "atari"; the paper has no network for a few numbers. In the paper of dueling heads each of the two streams
has a hidden layer of its own; here they part at the last layer.
"""

import math
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential

# B observations, A actions, H numbers of the last hidden layer


class QNetwork(nn.Module):
    """Observations (B, *observation_shape) -> the value of each action (B, A).

    Args:
        observation_shape: (numbers,), or (frames, height, width), which then go through `convolutions` first.
        hidden: widths of the layers before the heads.
        convolutions: (maps, kernel size, stride) of each; frames are then bytes, of which 255 counts as 1.
        dueling: two heads, see `DuelingHead`.
    """

    def __init__(
        self,
        observation_shape: Sequence[int] = (4,),
        num_actions: int = 2,
        hidden: Sequence[int] = (256, 256),
        convolutions: Sequence[tuple[int, int, int]] = (),
        dueling: bool = False,
    ) -> None:
        super().__init__()
        shape, layers = list(observation_shape), {}
        for i, (maps, kernel_size, stride) in enumerate(convolutions, 1):
            layers |= {f"conv{i}": nn.Conv2d(shape[0], maps, kernel_size, stride), f"act{i}": nn.ReLU()}
            shape = [maps, *((side - kernel_size) // stride + 1 for side in shape[1:])]
        self.convolutions = sequential(**layers)
        widths, layers = [math.prod(shape), *hidden], {}
        for i, (wide, narrow) in enumerate(zip(widths, hidden), 1):
            layers |= {f"linear{i}": nn.Linear(wide, narrow), f"act{i}": nn.ReLU()}
        self.layers = sequential(**layers)
        self.head = DuelingHead(widths[-1], num_actions) if dueling else nn.Linear(widths[-1], num_actions)

    def forward(self, observations: Tensor) -> Tensor:
        if self.convolutions:
            observations = self.convolutions(observations / 255).flatten(1)  # (B, F, Y, X) -> (B, C Y X)
        return self.head(self.layers(observations))  # (B, H) -> (B, A)

    def act(self, observations: Tensor) -> Tensor:
        """Return the actions (B,) of the highest value."""
        return self(observations).argmax(1)


class DuelingHead(nn.Module):
    """Q(s, a) = V(s) + A(s, a) - mean over a' of A(s, a'): equation 9 of Wang et al. (B, H) -> (B, A)."""

    def __init__(self, width: int, num_actions: int) -> None:
        super().__init__()
        self.value = nn.Linear(width, 1)
        self.advantage = nn.Linear(width, num_actions)

    def forward(self, x: Tensor) -> Tensor:
        return dueling(self.value(x), self.advantage(x))


def dueling(value: Tensor, advantage: Tensor) -> Tensor:
    """Values of states (B, 1) and advantages of actions (B, A) -> values of actions (B, A)."""
    return value + advantage - advantage.mean(1, keepdim=True)


PRESETS: dict[str, dict[str, Any]] = {
    "classic": {},
    "atari": {
        "observation_shape": (4, 84, 84),
        "num_actions": 18,
        "hidden": (512,),
        "convolutions": ((32, 8, 4), (64, 4, 2), (64, 3, 1)),
    },
    "tiny": {"hidden": (8,)},
}


def build(preset: str = "classic", **overrides: Any) -> QNetwork:
    """Return the network of a preset; `overrides` are arguments of `QNetwork`."""
    return QNetwork(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return an observation, zeros (1, ...)."""
    return (torch.zeros(1, *PRESETS[preset].get("observation_shape", (4,))),)
