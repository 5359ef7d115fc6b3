"""The three losses by hand, which network each moves, the target critics, and whole runs."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.modules.Reinforcement.SAC import train
from dl.modules.Reinforcement.SAC.model import SAC, build
from dl.modules.Reinforcement.SAC.step import SACStep
from dl.modules.Reinforcement.SAC.task import SoftActorCritic
from dl.modules.Reinforcement.testing import SMALL
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch
from dl.mytorch.environments import Environments
from dl.mytorch.environments.replay import Replay
from dl.mytorch.optim import sgd

CONFIG = train.Config(
    **SMALL, env_steps=24, train_every=4, learning_starts=5, capacity=12, eval_episodes=1, test_episodes=1, plots=False
)


@pytest.fixture(autouse=True)
def _gymnasium() -> None:
    pytest.importorskip("gymnasium")


def batch_of(size: int = 6, actions: int = 1) -> Batch:
    numbers = {name: torch.randn(size, 3) for name in ("observations", "next_observations")}
    numbers |= {name: torch.randn(size, actions) for name in ("noise", "next_noise")}
    numbers |= {"rewards": torch.randn(size), "discounts": torch.tensor([0.0, 0.9]).repeat(size // 2)}
    return numbers | {"actions": torch.rand(size, actions) * 2 - 1}


def task_for(model: SAC, **options: Any) -> SoftActorCritic:
    task = SoftActorCritic(None, None, **options)
    task.begin(model)
    return task


def step_for(folder: Path, model: SAC, **options: Any) -> SACStep:
    config = dataclasses.replace(CONFIG, out=str(folder))
    return SACStep(model, SoftActorCritic(None, None, **options), train.for_each(sgd(0.1)), config)


# ---- losses --------------------------------------------------------------------------------------------------------


def test_the_critics_learn_the_lower_target_minus_the_entropy_s_price() -> None:
    model, batch = build("tiny"), batch_of()
    task = task_for(model)
    task.target.first.output.bias.data += 100  # the second is the lower one
    model.temperature.log_alpha.data.fill_(0.3)
    actions, log_probs = model.actor.sample(batch["next_observations"], batch["next_noise"])
    both = torch.cat([batch["next_observations"], actions], -1)
    y = batch["rewards"] + batch["discounts"] * (task.target.second(both).squeeze(-1) - torch.e**0.3 * log_probs)
    values = [
        critic(torch.cat([batch["observations"], batch["actions"]], -1)).squeeze(-1) for critic in model.critic.children()
    ]
    expected = sum((value - y).square().mean() / 2 for value in values)
    output = task.critic_step(model, batch)
    torch.testing.assert_close(output.loss, expected)
    output.loss.backward()
    assert all(parameter.grad is None for parameter in (*model.actor.parameters(), *model.temperature.parameters()))


def test_the_actor_learns_the_lower_value_and_leaves_the_critics_alone() -> None:
    model, batch = build("tiny"), batch_of()
    task = task_for(model)
    model.critic.second.output.bias.data -= 100
    actions, log_probs = model.actor.sample(batch["observations"], batch["noise"])
    lower = model.critic.second(torch.cat([batch["observations"], actions], -1)).squeeze(-1)
    output = task.actor_step(model, batch)
    torch.testing.assert_close(output.loss, (log_probs - lower).mean())
    output.loss.backward()
    assert all(parameter.grad is None for parameter in (*model.critic.parameters(), *model.temperature.parameters()))
    assert all(parameter.requires_grad for parameter in model.critic.parameters())


@pytest.mark.parametrize(("log_probs", "rises"), [([3.0, 2.0], True), ([1.0, 2.0], False)])
def test_the_temperature_rises_where_the_entropy_is_too_low(log_probs: list[float], rises: bool) -> None:
    """For two numbers of an action the mean of -log pi should be -2; the gradient of log alpha is -(mean log pi - 2)."""
    model, batch = build("tiny", low=(-1.0, -1.0), high=(1.0, 1.0)), batch_of(2, actions=2)
    task = task_for(model)
    task.log_probs = torch.tensor(log_probs)
    task.temperature_step(model, batch).loss.backward()
    gradient = model.temperature.log_alpha.grad.item()
    assert gradient == pytest.approx(-(sum(log_probs) / 2 - 2)) and (gradient < 0) == rises


# ---- an update -----------------------------------------------------------------------------------------------------


def test_an_update_moves_each_network_by_its_own_loss(tmp_path: Path) -> None:
    """The temperature of the losses is that from before, and the actor is judged by the new critics."""
    batch = batch_of()
    torch.manual_seed(1)
    model = build("tiny")
    step = step_for(tmp_path, model)
    torch.manual_seed(1)
    twin = build("tiny")
    task = task_for(twin)
    step.improve(batch)
    parts = ((twin.critic, task.critic_step), (twin.actor, task.actor_step), (twin.temperature, task.temperature_step))
    for part, loss in parts:
        gradients = torch.autograd.grad(loss(twin, batch).loss, list(part.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(part.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    for (name, own), expected in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, expected, atol=1e-6, rtol=1e-6, msg=name)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_target_critics_follow_and_share_nothing() -> None:
    """With tau 0.005, after 1,000 updates 0.995^1000 = 0.00665 of the first target is left."""
    model = build("tiny")
    task = task_for(model)
    weights, target = model.critic.first.linear1.weight, task.target.first.linear1.weight
    assert weights.data_ptr() != target.data_ptr() and torch.equal(weights, target) and not target.requires_grad
    weights.data += 1
    for _ in range(1000):
        task.follow()
    left = (weights - target).mean().item()
    assert left == pytest.approx(0.00665, abs=2e-5)


# ---- acting --------------------------------------------------------------------------------------------------------


def test_the_replay_has_actions_without_units_and_the_environment_has_them_in_its_own(tmp_path: Path) -> None:
    environments = Environments("Pendulum-v1", 2, 0)
    replay = Replay(tmp_path / "replay.bin", 50, 0, ((3,), "float32"), ((1,), "float32"), num_envs=2)
    task = SoftActorCritic(environments, replay, learning_starts=20)
    taken = []
    step = environments.step
    environments.step = lambda actions: taken.append(actions) or step(actions)
    task.begin(build("tiny"))
    task.collect(40)
    stored = torch.from_numpy(replay.ring["actions"][:20].copy())
    torch.testing.assert_close(torch.stack(taken), 2 * stored)
    assert stored.abs().max() < 1 and stored[:10].std().item() == pytest.approx(3**-0.5, abs=0.25)  # uniform at first


def test_pendulum_is_cut_but_never_terminated(tmp_path: Path) -> None:
    """Its time limit is 200 steps: the value of what follows counts at each of them."""
    environments = Environments("Pendulum-v1", 1, 0)
    task = SoftActorCritic(environments, Replay(tmp_path / "replay.bin", 450, 0, ((3,), "float32"), ((1,), "float32")))
    task.begin(build("tiny"))
    batch = task.collect(410)
    assert batch["truncated"].nonzero().flatten().tolist() == [199, 399] and not batch["terminated"].any()
    assert task.replay.gather(torch.arange(410), 0.99)["discounts"].eq(0.99).all()
    ends = task.replay.ring[199, 0]
    assert ends["next_observations"].tolist() != task.replay.ring[200, 0]["observations"].tolist()


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_saves_three_optimizers_and_resumes_with_several_environments(tmp_path: Path, no_reports: None) -> None:
    config = dataclasses.replace(CONFIG, out=str(tmp_path), num_envs=2, n_step=2)
    testing.assert_resumes_exactly(train.main, config, lambda: train.agent_splits(config, config.train_every))
    state = checkpoint.load(tmp_path / "whole" / "last.pt")
    assert [len(optimizer["state"]) for optimizer in state["optimizers"]] == [8, 4, 1]
    assert all("target" not in name for name in state["model"]) and len(state["own"]["target"]) == 8


def test_what_sac_cannot_do_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="CartPole-v1 has a list of 2 actions, SAC gives numbers: try DQN or PPO"):
        train.build_model(dataclasses.replace(CONFIG, data="CartPole-v1"))
    with pytest.raises(UserError, match="--tau has to be above 0"):
        dataclasses.replace(CONFIG, tau=0.0)
