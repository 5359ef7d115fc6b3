"""Six updates of critics, actor, temperature and targets equal stable-baselines3's. float64, without an environment."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dl.modules.Reinforcement.SAC import model as networks
from dl.modules.Reinforcement.SAC import train
from dl.modules.Reinforcement.SAC.model import SAC
from dl.modules.Reinforcement.SAC.step import SACStep
from dl.modules.Reinforcement.SAC.task import SoftActorCritic
from dl.mytorch.data import Batch
from dl.mytorch.optim import adamw

pytestmark = pytest.mark.parity
UPDATES, ROWS = 6, 7


def batches() -> list[Batch]:
    """Transitions of 3 numbers and actions of 2, a third of them terminated."""
    torch.manual_seed(3)
    made = []
    for _ in range(UPDATES):
        seen, after = torch.randn(2, ROWS, 3, dtype=torch.float64)
        batch = {"observations": seen, "actions": torch.rand(ROWS, 2, dtype=torch.float64) * 2 - 1, "next_observations": after}
        going = (torch.rand(ROWS) < 2 / 3).double()
        made.append(batch | {"rewards": torch.randn(ROWS, dtype=torch.float64), "discounts": 0.9 * going})
    return made


def with_noise(given: list[Batch]) -> list[Batch]:
    """What `Normal.rsample` draws after `torch.manual_seed(0)`: for the observations first, then for the next ones."""
    torch.manual_seed(0)
    zeros, ones = torch.zeros(2, ROWS, 2, dtype=torch.float64), torch.ones(2, ROWS, 2, dtype=torch.float64)
    return [
        batch | {name: torch.normal(zeros[i], ones[i]) for i, name in enumerate(("noise", "next_noise"))} for batch in given
    ]


def names(theirs: Any) -> dict[str, Tensor]:
    """The parameters of stable-baselines3 as ours have them."""
    actor = {"linear1": theirs.actor.latent_pi[0]}
    found = {
        f"actor.layers.{name}.{part}": getattr(layer, part) for name, layer in actor.items() for part in ("weight", "bias")
    }
    for part in ("weight", "bias"):
        heads = [getattr(head, part).data for head in (theirs.actor.mu, theirs.actor.log_std)]
        found[f"actor.layers.output.{part}"] = torch.cat(heads)
    found |= {f"critic.{name}": value for name, value in critics(theirs.critic).items()}
    return found | {"temperature.log_alpha": theirs.log_ent_coef.squeeze()}


def critics(theirs: Any) -> dict[str, Tensor]:
    found = {}
    for name, network in (("first", theirs.qf0), ("second", theirs.qf1)):
        for layer, linear in (("linear1", network[0]), ("output", network[2])):
            found |= {f"{name}.{layer}.{part}": getattr(linear, part) for part in ("weight", "bias")}
    return found


def put(values: dict[str, Tensor], ours: nn.Module) -> None:
    ours.load_state_dict({name: value.detach().clone() for name, value in values.items()})


def test_six_updates_equal_stable_baselines3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium as gym
    from stable_baselines3.common import policies
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    class Dummy(gym.Env):
        observation_space = gym.spaces.Box(-10, 10, (3,), np.float64)
        action_space = gym.spaces.Box(-2, 2, (2,), np.float32)

    monkeypatch.setattr(policies, "preprocess_obs", lambda seen, space, normalize_images=True: seen)  # no cast to float32
    monkeypatch.setattr(networks, "log_slope", lambda u: (1 - u.tanh().square() + 1e-6).log())  # which is theirs
    options = {"policy_kwargs": {"net_arch": [5]}, "gamma": 0.9, "learning_rate": 0.01, "tau": 0.1}
    theirs = sb3.SAC("MlpPolicy", Dummy(), device="cpu", **options)
    theirs.policy.double()
    theirs.set_logger(Logger(None, []))
    theirs.log_ent_coef = theirs.log_ent_coef.detach().double().requires_grad_(True)
    theirs.ent_coef_optimizer = torch.optim.Adam([theirs.log_ent_coef], lr=0.01)
    ours = SAC(3, (-2.0, -2.0), (2.0, 2.0), widths=(5,)).double()
    put(names(theirs), ours)
    config = train.Config(out=str(tmp_path), updates=UPDATES, device="cpu", learning_starts=0)
    task = SoftActorCritic(None, None, gamma=0.9, tau=0.1)
    step = SACStep(ours, task, train.for_each(adamw(0.01, weight_decay=0.0)), config)
    put(critics(theirs.critic_target), task.target)
    given = batches()
    feed, noisy = iter(given), iter(with_noise(given))
    task.draw, task.steps = lambda size: next(noisy), 1

    def sample(size: int, env: Any = None) -> ReplayBufferSamples:
        batch = next(feed)
        column = {name: batch[name][:, None] for name in ("rewards", "discounts")}
        dones = (column["discounts"] == 0).double()
        return ReplayBufferSamples(
            batch["observations"], batch["actions"], batch["next_observations"], dones, column["rewards"], None
        )

    theirs.replay_buffer = SimpleNamespace(sample=sample)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    torch.manual_seed(0)
    theirs.train(gradient_steps=UPDATES, batch_size=ROWS)
    step.learn([])
    for name, expected in names(theirs).items():
        torch.testing.assert_close(ours.state_dict()[name], expected.data, atol=1e-9, rtol=0, msg=name)
        assert not torch.equal(before[name], expected.data), name
    for name, expected in critics(theirs.critic_target).items():
        torch.testing.assert_close(task.target.state_dict()[name], expected.data, atol=1e-9, rtol=0, msg=name)
