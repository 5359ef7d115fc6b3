"""Train an agent of continuous actions by soft actor-critic in an environment of gymnasium.

python -m dl.modules.Reinforcement.SAC.train
python -m dl.modules.Reinforcement.SAC.train --env MountainCarContinuous-v0 --env-steps 50000 --out runs/Reinforcement/SAC-car
"""

from dataclasses import dataclass

from dl.modules.Reinforcement.off_policy import OffPolicyConfig, make_replay
from dl.modules.Reinforcement.recipe import agent_splits, environments_for
from dl.modules.Reinforcement.SAC.model import PRESETS, SAC, build
from dl.modules.Reinforcement.SAC.step import SACStep
from dl.modules.Reinforcement.SAC.task import SoftActorCritic
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits
from dl.mytorch.environments import Spaces
from dl.mytorch.introspect import threads
from dl.mytorch.optim import MakeOne, MakeOptimizer, adamw, constant, shown


@dataclass(frozen=True)
class Config(OffPolicyConfig):
    """Train an agent by SAC. Defaults are for Pendulum, those that the zoo of stable-baselines3 has for it."""

    out: str = "runs/Reinforcement/SAC"
    data: str = "Pendulum-v1"
    model: str = flag("mlp256", "preset of actor and critics, see model.py", choices=PRESETS)
    env_steps: int = 20_000
    learning_starts: int = 100
    batch_size: int = 256
    lr: float = 1e-3
    tau: float = flag(0.005, "how far the target critics move towards the critics at each update")
    test_episodes: int = 200
    eval_every: int = 1000
    save_every: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("tau", 0 < self.tau <= 1, "above 0 and at most 1")


def build_model(config: Config, spaces: Spaces | None = None) -> SAC:
    """Return the agent for an environment of `spaces`; default: those of the config's environment.

    Raises `UserError` for actions that are a list.
    """
    spaces = spaces or environments_for(config).spaces
    if not spaces.action_size:
        raise UserError(f"{config.data} has a list of {spaces.num_actions} actions, SAC gives numbers: try DQN or PPO")
    return build(config.model, observation_size=spaces.observation_size, low=spaces.low.tolist(), high=spaces.high.tolist())


@shown
def for_each(make: MakeOne) -> MakeOptimizer:
    """Return what makes three optimizers: the critics', the actor's, the temperature's."""
    return lambda model: [make(model.critic), make(model.actor), make(model.temperature)]


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    environments = environments_for(config)
    model = build_model(config, environments.spaces)
    options = {name: getattr(config, name) for name in ("gamma", "n_step", "learning_starts", "tau")}
    task = SoftActorCritic(environments, make_replay(config, environments), **options)
    optimizer = for_each(adamw(config.lr, weight_decay=config.weight_decay, fused=True))
    with threads(1):  # of networks this small, two threads take longer than one
        trainer = Trainer(model, task, optimizer, constant(), config, SACStep)
        data = data or agent_splits(config, config.train_every)
        data.train.collect = lambda: task.collect(config.train_every)
        return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
