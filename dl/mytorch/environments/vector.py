"""Several environments of a kind, stepped together, of which each rank has its share."""

from typing import Any, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

from dl.mytorch.distributed import data_rank, data_world_size, gather_parts
from dl.mytorch.environments.member import Member

# n environments of this rank, O numbers of an observation, A of an action


class Transitions(NamedTuple):
    """One step of each of n environments."""

    observations: Tensor  # (n, O), which the actions answer
    actions: Tensor  # (n,) int64 from 0, or (n, A) as the policy gave them, before they were clipped
    rewards: Tensor  # (n,)
    next_observations: Tensor  # (n, O), what followed; after an episode's last step its own last one, not the next one's first
    terminated: Tensor  # (n,) bool: the task ended, no reward can follow
    truncated: Tensor  # (n,) bool: a time limit cut the episode; what could have followed is V(next_observations)
    returns: Tensor  # (n,): sum of rewards of the episode that ended with this step; NaN where none did


class Environments:
    """`count` environments called `name`, number i seeded with `seed` + i; of these, rank r has each world-th from r on.

    An episode that ends is followed by the next one at once: `observations` (n, O) is always what the next actions answer.
    Each environment has a random generator for exploration, too, so that what is drawn for it does not depend on which rank
    has it: `uniform` and `normal`.

    Raises `UserError` for an environment that cannot be made, or has spaces that no network here fits; later for one that
    raises or gives what is no number.
    """

    def __init__(self, name: str, count: int, seed: int) -> None:
        self.name, self.count = name, count
        indices = range(data_rank(), count, data_world_size())
        self.members = [Member(name, i, seed + i) for i in indices]
        self.generators = [np.random.default_rng((seed, i)) for i in indices]
        self.spaces = self.members[0].spaces
        self.how_they_resume = self.members[0].how_it_resumes
        self.observations = self._observations()

    def __len__(self) -> int:
        """Return n, the number of environments of this rank."""
        return len(self.members)

    def step(self, actions: Tensor) -> Transitions:
        """Take one step in each environment. `actions`: (n,) integers from 0, or (n, A), which are clipped to their bounds."""
        seen, chosen = self.observations, actions.cpu()
        followed, rewards, terminated, truncated = move(self.members, chosen)
        returns = [float("nan")] * len(self)
        for k, member in enumerate(self.members):
            if terminated[k] or truncated[k]:
                returns[k] = member.total
                member.reset()
        self.observations = self._observations() if any(terminated) or any(truncated) else followed
        flags = torch.tensor(terminated), torch.tensor(truncated)
        return Transitions(seen, chosen, torch.tensor(rewards), followed, *flags, torch.tensor(returns))

    def uniform(self) -> Tensor:
        """Return a number in [0, 1) for each environment, from its generator: (n,), float64."""
        return torch.tensor([generator.random() for generator in self.generators], dtype=torch.float64)

    def normal(self, size: int) -> Tensor:
        """Return `size` standard normal numbers for each environment, from its generator: (n, size), float32."""
        return torch.from_numpy(np.stack([generator.standard_normal(size, np.float32) for generator in self.generators]))

    def state(self) -> list[dict[str, Any]]:
        """Return the states of all environments and their generators, those of other ranks too. All ranks call it."""
        own = [
            {"member": member.state(), "observation": torch.tensor(member.observation), "exploration": _state(generator)}
            for member, generator in zip(self.members, self.generators)
        ]
        parts = gather_parts(own)
        return [parts[i % len(parts)][i // len(parts)] for i in range(self.count)]

    def load_state(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue from what `state` gave, on any number of ranks."""
        own = states[data_rank() :: data_world_size()]
        for member, generator, saved in zip(self.members, self.generators, own, strict=True):
            member.load_state(saved["member"])
            if member.how_it_resumes != "not exactly":
                member.observation = saved["observation"].numpy().copy()
            generator.bit_generator.state = saved["exploration"]
        self.observations = self._observations()

    def _observations(self) -> Tensor:
        return torch.from_numpy(np.stack([member.observation for member in self.members]))


def move(members: Sequence[Member], actions: Tensor) -> tuple[Tensor, list[float], list[bool], list[bool]]:
    """Take one step in each of `members`: observations (n, O), rewards, and which episodes were terminated or truncated."""
    steps = [member.step(action) for member, action in zip(members, actions.tolist(), strict=True)]
    observations, rewards, terminated, truncated = zip(*steps)
    return torch.from_numpy(np.stack(observations)), list(rewards), list(terminated), list(truncated)


def _state(generator: np.random.Generator) -> dict[str, Any]:
    return dict(generator.bit_generator.state)
