"""What the recipes of agents share: flags, the seeds of evaluation, how a run of an environment resumes."""

import sys
from dataclasses import dataclass

import torch

from dl.mytorch import TrainConfig
from dl.mytorch.config import flag
from dl.mytorch.data import Loader, Splits
from dl.mytorch.distributed import is_main, world_size
from dl.mytorch.environments import TEST, VALIDATION, Environments, Experience


@dataclass(frozen=True)
class AgentConfig(TrainConfig):
    """What a recipe that trains an agent can be told beside. A step of the loop is one iteration: acting, then learning."""

    data: str = flag("CartPole-v1", "environment of gymnasium, by its id, or as module:id", alias="env")
    env_steps: int = flag(100_000, "environment steps of the training, over all environments")
    num_envs: int = flag(8, "environments that are stepped together, over all ranks")
    gamma: float = flag(0.99, "discount of the rewards of a step later")
    eval_episodes: int = flag(20, "episodes of an evaluation, which chooses the best checkpoint")
    test_episodes: int = flag(100, "episodes of the test of that checkpoint, with other seeds")
    eval_every: int = 10
    save_every: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("env_steps", "num_envs", "eval_episodes", "test_episodes"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("num_envs", self.num_envs <= 4096, "at most 4096: each is an object of its own")
        self._check("num_envs", self.num_envs >= world_size(), "at least the number of ranks, which share them")
        self._check("gamma", 0 <= self.gamma <= 1, "at least 0 and at most 1")
        self._check("accumulate", self.accumulate == 1, "1: an agent's step makes its own minibatches")
        self._check("precision", self.precision == "fp32", "fp32: the networks are too small to gain by bf16")
        self._check("layerwise", self.layerwise == "none", "none: an agent acts with the whole network")


def agent_splits(config: AgentConfig, batch_size: int) -> Splits:
    """Return a loader of `batch_size` environment steps a batch, which `collect` has to be set for, and seeds of evaluation.

    Batches of evaluation: "seeds" (B,), an episode each. They are the same for all runs, and none of them is one of training.
    """

    def episodes(first: int, count: int) -> Loader:
        return Loader({"seeds": torch.arange(first, first + count)}, count)

    val, test = episodes(VALIDATION, config.eval_episodes), episodes(TEST, config.test_episodes)
    return Splits(Experience(batch_size, config.env_steps), val, test)


def environments_for(config: AgentConfig) -> Environments:
    """Return the environments of training, and say in a line if a run of these resumes, but not exactly."""
    environments = Environments(config.data, config.num_envs, config.seed)
    if environments.how_they_resume == "not exactly" and is_main():
        line = f"note: {config.data}: its state can neither be set nor replayed; the run resumes, but not exactly"
        print(line, file=sys.stderr, flush=True)
    return environments
