"""Train a network of action values in an environment of gymnasium.

python -m dl.modules.Reinforcement.DQN.train
python -m dl.modules.Reinforcement.DQN.train --double --dueling --prioritized --out runs/Reinforcement/DQN-all
"""

from dataclasses import dataclass
from functools import partial

from dl.modules.Reinforcement.DQN.model import PRESETS, QNetwork, build
from dl.modules.Reinforcement.DQN.step import QStep
from dl.modules.Reinforcement.DQN.task import QLearning, linear
from dl.modules.Reinforcement.off_policy import OffPolicyConfig, make_replay
from dl.modules.Reinforcement.recipe import agent_splits, environments_for
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits
from dl.mytorch.environments import Spaces
from dl.mytorch.environments.replay import PrioritizedReplay, Replay
from dl.mytorch.introspect import threads
from dl.mytorch.optim import adamw, constant


@dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Train an agent by DQN. Defaults are for CartPole, those that the zoo of stable-baselines3 has tuned for it."""

    out: str = "runs/Reinforcement/DQN"
    model: str = flag("classic", "preset of the network, see model.py", choices=PRESETS)
    env_steps: int = 50_000
    train_every: int = 256
    updates: int = 128
    batch_size: int = 64
    lr: float = 2.3e-3
    grad_clip: float = 10.0
    target_every: int = flag(10, "environment steps between two copies to the target network")
    epsilon: float = flag(0.04, "share of random actions, to which it falls from 1")
    exploration: float = flag(0.16, "part of all environment steps in which it falls")
    double: bool = flag(False, "double DQN: the network that learns chooses the next action, its target tells the value")
    dueling: bool = flag(False, "two heads: the value of the state, and the advantages of the actions")
    prioritized: bool = flag(False, "draw transitions with large errors more often")
    alpha: float = flag(0.6, "with --prioritized: 0 draws all as often, 1 in proportion to the error")
    beta: float = flag(0.4, "with --prioritized: how much of the bias of the draws is undone at first; at the end all")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("target_every", self.target_every >= 1, "at least 1")
        for name in ("epsilon", "exploration", "alpha", "beta"):
            self._check(name, 0 <= getattr(self, name) <= 1, "at least 0 and at most 1")


def build_model(config: Config, spaces: Spaces | None = None) -> QNetwork:
    """Return the network for an environment of `spaces`; default: those of the config's environment.

    Raises `UserError` for actions that are no list.
    """
    spaces = spaces or environments_for(config).spaces
    if not spaces.num_actions:
        raise UserError(f"{config.data} has actions of {spaces.action_size} numbers, which DQN cannot list: try SAC or PPO")
    shape = (spaces.observation_size,)
    return build(config.model, observation_shape=shape, num_actions=spaces.num_actions, dueling=config.dueling)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    environments = environments_for(config)
    model = build_model(config, environments.spaces)
    task = QLearning(
        environments,
        make_replay(config, environments, partial(PrioritizedReplay, alpha=config.alpha) if config.prioritized else Replay),
        epsilon=linear(1.0, config.epsilon, config.exploration * config.env_steps),
        beta=linear(config.beta, 1.0, config.env_steps),
        **{name: getattr(config, name) for name in ("gamma", "n_step", "double", "learning_starts", "target_every")},
    )
    optimizer = adamw(config.lr, weight_decay=config.weight_decay, fused=True)
    with threads(1):  # of networks this small, two threads take longer than one
        trainer = Trainer(model, task, optimizer, constant(), config, QStep)
        data = data or agent_splits(config, config.train_every)
        data.train.collect = lambda: task.collect(config.train_every)
        return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
