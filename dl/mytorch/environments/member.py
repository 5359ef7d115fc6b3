"""One environment: what it gives is checked, and an error names it."""

import math
import warnings
from typing import Any, Callable

import numpy as np

from dl.mytorch.config import UserError
from dl.mytorch.environments import state
from dl.mytorch.environments.spaces import read_spaces

INSTALL = 'pip install -e ".[rl]"'


def import_gymnasium() -> Any:
    """Return the package gymnasium. Raises `UserError` that says how to install it."""
    try:
        import gymnasium
    except ImportError:
        raise UserError(f"environments are gymnasium's: {INSTALL}") from None
    return gymnasium


def make(name: str, **options: Any) -> Any:
    """Return the environment of gymnasium called `name`. Raises `UserError`, in one line, for one that cannot be made."""
    gymnasium = import_gymnasium()
    try:
        with warnings.catch_warnings():  # Box2D is imported by some: under `-W error` its deprecations would end the process
            warnings.simplefilter("ignore", DeprecationWarning)
            return gymnasium.make(name, disable_env_checker=True, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError(f"the environment {name} needs another package ({_first_line(error)}): {INSTALL}") from None
    except Exception as error:  # an unknown name, or whatever the code of somebody's environment raises
        raise UserError(f"the environment {name} cannot be made: {_first_line(error)}") from error


class Member:
    """The environment `index` of several of a kind, in an episode: `observation` (O,) float32 is what it showed last.

    Args:
        seed: of its generator, which the first reset takes.
        options: of `gymnasium.make`.

    Raises `UserError`, here and in each method, for what goes wrong in the environment's code, for numbers that are not finite,
    and for observations of another shape than its space says.
    """

    def __init__(self, name: str, index: int, seed: int, **options: Any) -> None:
        self.name, self.index = name, index
        self.env = make(name, **options)
        self.spaces = read_spaces(self.env, name)
        self.how_it_resumes = state.how_it_resumes(self.env)
        self.reset(seed)

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode; with a seed, at the beginning of its random stream."""
        generator = None if seed is not None else self.env.unwrapped.np_random.bit_generator.state
        self.begun = {"seed": seed, "generator": generator}  # what this episode can be replayed from,
        self.actions: list[Any] = []  # with these
        self.total, self.length = 0.0, 0  # reward and steps of the episode so far
        self.observation = self._checked(self._call("reset", lambda: self.env.reset(seed=seed)[0]))

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool]:
        """Return the observation (O,), reward, and whether the episode was terminated or truncated; it has to be reset then.

        `action`: a number from 0, or (A,) numbers, which are clipped to their bounds.
        """
        observation, reward, terminated, truncated, _ = self._call("step", lambda: self.env.step(self.spaces.decode(action)))
        self.length += 1
        reward = float(reward)
        if not math.isfinite(reward):
            raise UserError(f"{self._where('step')} gave the reward {reward}; rewards have to be finite numbers")
        self.total += reward
        if self.how_it_resumes == "replayed":
            self.actions.append(action if isinstance(action, int) else [float(number) for number in action])
        self.observation = self._checked(observation)
        return self.observation, reward, bool(terminated), bool(truncated)

    def render(self) -> np.ndarray:
        """Return what a camera sees, (H, W, 3) uint8. Raises `UserError` for an environment that cannot draw itself so."""
        frame = self._call("render", self.env.render)
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise UserError(f"the environment {self.name} draws no images (render_mode rgb_array)")
        return frame

    # ---- its state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that its next step depends on, in plain values and tensors, if that is available."""
        replayed = self.how_it_resumes == "replayed"
        own = {"begun": self.begun, "actions": self.actions} if replayed else state.capture(self.env)
        return {"env": own, "total": self.total, "length": self.length}

    def load_state(self, saved: dict[str, Any]) -> None:
        """Continue from what `state` gave; with a new episode, if neither setting nor replaying is possible."""
        own = saved["env"]
        if self.how_it_resumes == "replayed":
            if own["begun"]["generator"] is not None:
                self.env.unwrapped.np_random.bit_generator.state = own["begun"]["generator"]
            self.reset(own["begun"]["seed"])
            self.begun = own["begun"]
            for action in own["actions"]:
                self.step(action)
            return
        state.restore(self.env, own)
        if self.how_it_resumes == "not exactly":
            self.reset()
        else:
            self.total, self.length = saved["total"], saved["length"]

    # ---- errors ----------------------------------------------------------------------------------------------------

    def _call(self, method: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise UserError(f"{self._where(method)} raised {type(error).__name__}: {_first_line(error)}") from error

    def _checked(self, observation: Any) -> np.ndarray:
        try:
            row = self.spaces.encode(observation)
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(f"{self._where('step')} gave {_first_line(error)}") from error
        if not math.isfinite(row.sum(dtype=np.float64)):  # of a few numbers: half the time of isfinite().all()
            raise UserError(f"{self._where('step')} gave an observation that is not finite")
        return row

    def _where(self, method: str) -> str:
        return f"the environment {self.name} (number {self.index}), in {method} {self.length} of its episode,"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no text").partition("\n")[0][:200]
