"""Train an agent by proximal policy optimization in an environment of gymnasium.

python -m dl.modules.Reinforcement.PPO.train
python -m dl.modules.Reinforcement.PPO.train --env Pendulum-v1 --num-envs 4 --rollout-steps 1024 --gamma 0.9 \\
    --gae-lambda 0.95 --batch-size 64 --update-epochs 10 --no-anneal --out runs/Reinforcement/PPO-pendulum
"""

from dataclasses import dataclass

from dl.modules.Reinforcement.PPO.model import PRESETS, ActorCritic, build
from dl.modules.Reinforcement.PPO.step import PPOStep
from dl.modules.Reinforcement.PPO.task import PPO
from dl.modules.Reinforcement.recipe import AgentConfig, agent_splits, environments_for
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.environments import Spaces, spaces_of
from dl.mytorch.introspect import threads
from dl.mytorch.optim import adamw, constant, warmup_linear


@dataclass(frozen=True)
class Config(AgentConfig):
    """Train an agent by PPO. Defaults are for CartPole, those that the zoo of stable-baselines3 has tuned for it."""

    out: str = "runs/Reinforcement/PPO"
    model: str = flag("mlp64", "preset of the actor and the critic, see model.py", choices=PRESETS)
    rollout_steps: int = flag(32, "steps in each environment between two rounds of learning")
    update_epochs: int = flag(20, "passes over a rollout")
    batch_size: int = 256
    gamma: float = 0.98
    gae_lambda: float = flag(0.8, "0: advantages of one step; 1: of all that follow, with their variance")
    clip_range: float = flag(
        0.2, "how far the probability of an action may move from what it was, as a ratio, and still be rewarded"
    )
    anneal: bool = flag(True, "let the learning rate and the clip range fall to 0 over the training")
    value_weight: float = flag(0.5, "weight of the critic's loss")
    entropy_weight: float = flag(0.0, "weight of the entropy, which keeps the policy from becoming certain")
    lr: float = 1e-3
    grad_clip: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rollout_steps", "update_epochs"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("gae_lambda", 0 <= self.gae_lambda <= 1, "at least 0 and at most 1")
        self._check("clip_range", self.clip_range > 0, "above 0")
        for name in ("value_weight", "entropy_weight"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("parallel", self.parallel in ("none", "ddp"), "none or ddp: an agent acts with the whole network")


def build_model(config: Config, spaces: Spaces | None = None) -> ActorCritic:
    """Return the actor and the critic for an environment of `spaces`; default: those of the config's environment."""
    return build(config.model, **(spaces or spaces_of(config.data)).sizes)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    environments = environments_for(config)
    model = build_model(config, environments.spaces)
    weights = {"value_weight": config.value_weight, "entropy_weight": config.entropy_weight}
    task = PPO(
        environments, config.rollout_steps, config.gamma, config.gae_lambda, config.clip_range, **weights, seed=config.seed
    )
    optimizer = adamw(config.lr, weight_decay=config.weight_decay, eps=1e-5, fused=True)
    with threads(1):  # of networks of 64 units, two threads take longer than one
        trainer = Trainer(model, task, optimizer, warmup_linear(0.0) if config.anneal else constant(), config, PPOStep)
        data = data or agent_splits(config, config.num_envs * config.rollout_steps)
        data.train.collect = lambda: task.collect(model)
        return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
