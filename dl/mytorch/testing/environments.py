"""An environment whose every step is known beforehand, for tests of what is around it."""

from typing import Any

import numpy as np
import pytest


def scripted(name: str = "Scripted-v0", *, steps: int = 3, truncated: bool = False, **changes: Any) -> str:
    """Register an environment of gymnasium under `name`, which is returned. Skips the test where gymnasium is not installed.

    Its observation is (t, episode), from (0, 1) on; step t, from 1 on, has the reward t, and the last of `steps` ends the
    episode. `changes`: other spaces, as "observation_space" and "action_space"; "fails": {t: an exception to raise, or a
    reward}; "seen": {t: an observation}; "actions": a list that notes the actions taken.
    """
    gymnasium = pytest.importorskip("gymnasium", reason='gymnasium is not installed: pip install -e ".[rl]"')
    spaces = gymnasium.spaces

    class Scripted(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"]}

        def __init__(self, render_mode: str | None = None) -> None:
            self.observation_space = changes.get("observation_space", spaces.Box(-np.inf, np.inf, (2,), np.float64))
            self.action_space = changes.get("action_space", spaces.Discrete(2))
            self.render_mode, self.episode, self.t = render_mode, 0, 0

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.t, self.episode = 0, self.episode + 1
            return self._observation(), {}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            changes.get("actions", []).append(action)
            self.t += 1
            reward = changes.get("fails", {}).get(self.t, float(self.t))
            if isinstance(reward, Exception):
                raise reward
            ended = self.t == steps
            return self._observation(), reward, ended and not truncated, ended and truncated, {}

        def render(self) -> np.ndarray:
            return np.full((20, 30, 3), min(255, 40 * self.t), np.uint8)

        def _observation(self) -> Any:
            return changes.get("seen", {}).get(self.t, np.array([self.t, self.episode], np.float64))

    gymnasium.registry.pop(name, None)
    gymnasium.register(name, entry_point=Scripted)
    return name
