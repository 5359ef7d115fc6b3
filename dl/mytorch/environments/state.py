"""The exact state of an environment between two steps, in plain values and tensors, as a checkpoint takes them.

Of the environments of classic control and toy text it is a few attributes; LunarLander, whose world is not readable, is
replayed from its last reset. Of any other environment only the random generator is kept: its run resumes with a new episode.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from gymnasium import Env

ATTRIBUTES = {  # beside the generator and the steps of the time limit
    "CartPoleEnv": ("state", "steps_beyond_terminated"),
    "PendulumEnv": ("state", "last_u"),
    **dict.fromkeys(("MountainCarEnv", "Continuous_MountainCarEnv", "AcrobotEnv"), ("state",)),
    **dict.fromkeys(("FrozenLakeEnv", "CliffWalkingEnv"), ("s", "lastaction")),
    "TaxiEnv": ("s", "lastaction", "fickle_step", "taxi_orientation"),
}
REPLAYED = ("LunarLander", "LunarLanderContinuous")  # each reset makes a new world; BipedalWalker's outlives it
WRAPPERS = ("TimeLimit", "OrderEnforcing", "PassiveEnvChecker")  # which have no other state than the time limit's steps

How = Literal["set", "replayed", "not exactly"]


def how_it_resumes(env: "Env") -> How:
    """Return whether the state of an environment can be set, or its episode replayed, or neither."""
    kind, layer = type(env.unwrapped), env
    ours = kind.__module__.startswith("gymnasium.envs.")  # a subclass may have more state
    while ours and layer is not env.unwrapped:
        ours = type(layer).__name__ in WRAPPERS and type(layer).__module__.startswith("gymnasium.")
        layer = layer.env
    if ours and kind.__name__ in ATTRIBUTES:
        return "set"
    return "replayed" if ours and kind.__name__ in REPLAYED else "not exactly"


def capture(env: "Env") -> dict[str, Any]:
    """Return the attributes of an environment that can be "set", its steps in the time limit, and its generator."""
    names = ATTRIBUTES.get(type(env.unwrapped).__name__, ()) if how_it_resumes(env) == "set" else ()
    return {
        "attributes": {name: _plain(getattr(env.unwrapped, name)) for name in names},
        "elapsed": _time_limit(env)._elapsed_steps if names and _time_limit(env) else None,
        "generator": env.unwrapped.np_random.bit_generator.state,
    }


def restore(env: "Env", state: dict[str, Any]) -> None:
    """Put back what `capture` gave into an environment of the same kind, which was reset."""
    env.unwrapped.np_random.bit_generator.state = state["generator"]
    for name, value in state["attributes"].items():
        setattr(env.unwrapped, name, value.numpy().copy() if isinstance(value, Tensor) else value)
    if limit := _time_limit(env):
        limit._elapsed_steps = state["elapsed"]


def _time_limit(env: "Env") -> Any:
    """Return the wrapper that cuts episodes, or None."""
    while env is not env.unwrapped:
        if type(env).__name__ == "TimeLimit":
            return env
        env = env.env
    return None


def _plain(value: Any) -> Any:
    """Return a value without numpy: arrays as tensors, numpy's numbers as Python's."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value
