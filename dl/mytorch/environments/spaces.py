"""What an environment takes and gives, as sizes of a network; spaces that no network here fits are refused in one line."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dl.mytorch.config import UserError

if TYPE_CHECKING:
    from gymnasium import Env

SUPPORTED = "supported are observations Box of one axis or Discrete, and actions Discrete or a bounded Box of one axis"


class Spaces(NamedTuple):
    """The sizes of both spaces, and how their values become rows of tensors and back."""

    observation_size: int  # O: numbers of a Box; states of a Discrete space, which are one-hot
    num_actions: int  # of a Discrete space; 0 for a Box
    low: np.ndarray  # (A,) bounds of a Box of actions, else (0,)
    high: np.ndarray
    first_state: int | None  # of Discrete observations; None for a Box
    first_action: int  # of Discrete actions, which are counted from 0 here and from `start` there

    @property
    def action_size(self) -> int:
        """A: numbers of a Box of actions; 0 for Discrete ones."""
        return len(self.low)

    @property
    def sizes(self) -> dict[str, int]:
        """Return what a network is built with: "observation_size", "num_actions" and "action_size"."""
        return {name: int(getattr(self, name)) for name in ("observation_size", "num_actions", "action_size")}

    def encode(self, observation: Any) -> np.ndarray:
        """Return an observation as (O,), float32. Raises `ValueError` for one of another shape."""
        if self.first_state is not None:
            row = np.zeros(self.observation_size, np.float32)
            row[int(observation) - self.first_state] = 1
            return row
        row = np.asarray(observation, np.float32)
        if row.shape != (self.observation_size,):
            raise ValueError(f"an observation of shape {row.shape}, its space says {(self.observation_size,)}")
        return row

    def decode(self, action: Any) -> Any:
        """Return what the environment takes for an action: of a policy a number from 0, or (A,) numbers, which are clipped."""
        if self.num_actions:
            return int(action) + self.first_action
        return np.clip(np.asarray(action, np.float32), self.low, self.high)


def read_spaces(env: "Env", name: str) -> Spaces:
    """Return the spaces of an environment. Raises `UserError`, naming it and what is supported, for any other kind."""
    from gymnasium.spaces import Box, Discrete

    seen, actions = env.observation_space, env.action_space
    flat = isinstance(seen, Box) and len(seen.shape) == 1
    if not (flat or isinstance(seen, Discrete)):
        raise UserError(f"{name} has observations {_shown(seen)}: {SUPPORTED}")
    bounded = isinstance(actions, Box) and len(actions.shape) == 1 and actions.is_bounded()
    if not (bounded or isinstance(actions, Discrete)):
        raise UserError(f"{name} has actions {_shown(actions)}: {SUPPORTED}")
    discrete = isinstance(actions, Discrete)
    empty = np.zeros(0, np.float32)
    return Spaces(
        observation_size=math.prod(seen.shape) if flat else int(seen.n),
        num_actions=int(actions.n) if discrete else 0,
        low=empty if discrete else actions.low.astype(np.float32),
        high=empty if discrete else actions.high.astype(np.float32),
        first_state=None if flat else int(seen.start),
        first_action=int(actions.start) if discrete else 0,
    )


def _shown(space: Any) -> str:
    """Return a space in short: its kind, and its shape where it has one."""
    shape = getattr(space, "shape", None)
    return type(space).__name__ + (f" of shape {tuple(shape)}" if shape else "")
