"""Advantages and the clipped loss by hand, rollouts step by step, and the traps that others have found."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.modules.Reinforcement.PPO import train
from dl.modules.Reinforcement.PPO.model import Categorical, Gaussian, build
from dl.modules.Reinforcement.PPO.step import PPOStep
from dl.modules.Reinforcement.PPO.task import PPO, clipped_loss, gae
from dl.mytorch.data import Batch
from dl.mytorch.environments import Environments, NegativeReturn
from dl.mytorch.optim import adamw, sgd
from dl.mytorch.testing.device import device_without_float64
from dl.mytorch.testing.environments import scripted

NOWHERE = SimpleNamespace(spaces=SimpleNamespace(num_actions=2, action_size=0))
NEVER = [False, False, False]


# ---- advantages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "terminated", "truncated", "expected"),
    [
        (0.8, NEVER, NEVER, [4.80272, 4.726, 3.3]),
        (0.8, [False, True, False], NEVER, [2.12, 1, 3.3]),
        (0.8, NEVER, [False, True, False], [4.712, 4.6, 3.3]),  # V of the final observation is 4
        (1.0, NEVER, NEVER, [6.188, 5.32, 3.3]),  # discounted return - V
        (0.0, NEVER, NEVER, [1.4, 2.35, 3.3]),  # of one step
        (0.8, [False, True, False], [False, True, False], [2.12, 1, 3.3]),  # both: nothing is to come
    ],
)
def test_advantages_by_hand(lam: float, terminated: list[bool], truncated: list[bool], expected: list[float]) -> None:
    column = lambda values: torch.tensor(values)[:, None]  # noqa: E731
    following = [1.0, 4.0 if truncated[1] else 1.5, 2.0]
    found = gae(
        column([1.0, 2, 3]).double(), column([0.5, 1, 1.5]).double(), column(following).double(), column(terminated),
        column(truncated), 0.9, lam,
    )  # fmt: skip
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-9)


def test_environments_do_not_see_each_other_s_ends() -> None:
    rewards, values = torch.tensor([[1.0, 2, 3]] * 2).T, torch.tensor([[0.5, 1, 1.5]] * 2).T
    following = torch.tensor([[1, 1.5, 2]] * 2).T
    ends = torch.tensor([NEVER, [False, True, False]]).T
    found = gae(rewards, values, following, ends, torch.zeros_like(ends), 0.9, 0.8)
    assert found[:, 0].tolist() == pytest.approx([4.80272, 4.726, 3.3])
    assert found[:, 1].tolist() == pytest.approx([2.12, 1, 3.3])


# ---- the loss ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
    [(1.5, 1, -1.2, 0), (1.5, -1, 1.5, 1), (0.5, 1, -0.5, -1), (0.5, -1, 0.8, 0), (1.1, 1, -1.1, -1)],
)
def test_clipped_loss_by_hand(ratio: float, advantage: float, loss: float, gradient: float) -> None:
    ratios = torch.tensor([ratio], requires_grad=True)
    found = clipped_loss(ratios, torch.tensor([float(advantage)]), 0.2)
    found.sum().backward()
    assert (found.item(), ratios.grad.item()) == (pytest.approx(loss), gradient)


def test_kl_of_a_ratio_of_one_and_a_half() -> None:
    model, batch = build("tiny"), rollout(1)
    with torch.no_grad():
        now = Categorical(model(batch["observations"])[0]).log_prob(batch["actions"])
    output = PPO(NOWHERE).step(model, batch | {"log_probs": now - math.log(1.5)})
    assert output.outputs["approx_kl"].item() == pytest.approx(0.094535, abs=1e-6)


def test_entropies_by_hand() -> None:
    assert Categorical(torch.zeros(1, 2)).entropy().item() == pytest.approx(0.693147, abs=1e-6)
    assert Gaussian(torch.tensor([[3.0, 0.0]])).entropy().item() == pytest.approx(1.418939, abs=1e-6)


def rollout(rows: int) -> Batch:
    """Rows of CartPole, drawn."""
    batch = {name: torch.randn(rows) for name in ("log_probs", "advantages", "targets")}
    batch |= {
        "observations": torch.randn(rows, 4),
        "actions": torch.arange(rows) % 2,
        "returns": torch.full((rows,), torch.nan),
    }
    return batch | {"log_probs": torch.full((rows,), math.log(0.5))}


def step_for(folder: Any, task: PPO, optimizer: Any = None, **changes: Any) -> PPOStep:
    config = train.Config(**{"out": str(folder), "device": "cpu", "batch_size": 8, "update_epochs": 1, **changes})
    return PPOStep(build("tiny"), task, optimizer or adamw(1e-2, weight_decay=0.0), config)


def test_advantages_are_normalised_in_each_minibatch(tmp_path: Any) -> None:
    seen: list[Tensor] = []

    class Watched(PPO):
        def step(self, model: Any, batch: Batch) -> Any:
            seen.append(batch["advantages"])
            return super().step(model, batch)

        def minibatches(self, rows: int, size: int) -> tuple[Tensor, ...]:
            return torch.arange(rows).split(size)

    step = step_for(tmp_path, Watched(NOWHERE), batch_size=4)
    step([rollout(8) | {"advantages": torch.tensor([1.0, 2, 3, 4, 10, 20, 30, 40])}])
    for advantages in seen:
        assert advantages.tolist() == pytest.approx([-1.161895, -0.387298, 0.387298, 1.161895], abs=1e-6)


def test_a_last_minibatch_of_one_row_does_not_make_the_weights_nan(tmp_path: Any) -> None:
    step = step_for(tmp_path, PPO(NOWHERE), batch_size=32)
    step([rollout(33)])
    assert all(parameter.isfinite().all() for parameter in step.model.parameters())


def test_each_row_is_in_one_minibatch_of_an_epoch_and_epochs_differ() -> None:
    task = PPO(NOWHERE)
    first, second = (torch.cat(task.minibatches(33, 8)) for _ in range(2))
    assert sorted(first.tolist()) == list(range(33)) and first.tolist() != second.tolist()
    assert [len(part) for part in task.minibatches(33, 8)] == [8, 8, 8, 8, 1]


def test_the_entropy_bonus_alone_raises_the_entropy(tmp_path: Any) -> None:
    batch = rollout(8) | {"advantages": torch.zeros(8)}
    step = step_for(tmp_path, PPO(NOWHERE, value_weight=0.0, entropy_weight=1.0), sgd(0.1))
    torch.nn.init.orthogonal_(step.model.actor.output.weight)  # not as sure as can be at the start
    before = Categorical(step.model(batch["observations"])[0]).entropy().mean()
    step([batch])
    assert Categorical(step.model(batch["observations"])[0]).entropy().mean() > before


def test_while_nothing_has_changed_the_gradient_is_that_of_the_plain_policy_gradient() -> None:
    model, batch = build("tiny"), rollout(6)
    with torch.no_grad():
        batch["log_probs"] = Categorical(model(batch["observations"])[0]).log_prob(batch["actions"])
    PPO(NOWHERE, value_weight=0.0).step(model, batch).loss.backward()
    found = model.actor.linear1.weight.grad.clone()
    model.zero_grad()
    log_probs = Categorical(model(batch["observations"])[0]).log_prob(batch["actions"])
    (-(log_probs * batch["advantages"]).mean()).backward()
    torch.testing.assert_close(found, model.actor.linear1.weight.grad)


def test_the_clip_range_falls_with_the_learning_rate(tmp_path: Any) -> None:
    task = PPO(NOWHERE)
    step = step_for(tmp_path, task)
    for group in step.param_groups():
        group["lr"] = group["initial_lr"] / 4
    step([rollout(8)])
    assert task.falling == pytest.approx(0.25)


# ---- rollouts ------------------------------------------------------------------------------------------------------


def test_an_action_is_drawn_at_its_probability() -> None:
    policy = Categorical(torch.tensor([[0.1, 0.6, 0.3]]).log().expand(4, -1))
    assert policy.sample(torch.tensor([0.0, 0.11, 0.69, 0.71], dtype=torch.float64)).tolist() == [0, 1, 1, 2]
    assert policy.sample(torch.full((4,), 1 - 1e-16, dtype=torch.float64)).max() == 2
    assert Gaussian(torch.tensor([[1.0, math.log(2)]])).sample(torch.tensor([[0.5]])).item() == pytest.approx(2)


class Constant(torch.nn.Module):
    """Values that are ten times t, what `scripted` shows first; both actions are equally probable."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(2))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(observations), -1), 10 * observations[:, 0]


@pytest.mark.parametrize("truncated", [False, True])
def test_a_rollout_bootstraps_where_a_time_limit_cut_and_not_where_the_task_ended(truncated: bool) -> None:
    """Episodes of two steps with rewards 1 and 2 and values 0 and 10; the final observation, t = 2, is worth 20."""
    task = PPO(Environments(scripted(steps=2, truncated=truncated), 1, 0), rollout_steps=3, gamma=0.5, lam=0.0)
    batch = task.collect(Constant())
    last = 2 + (10 if truncated else 0) - 10
    assert batch["advantages"].tolist() == [1 + 5 - 0, last, 1 + 5 - 0]
    assert batch["targets"].tolist() == [6, last + 10, 6]
    assert batch["observations"][:, 0].tolist() == [0, 1, 0] and batch["returns"].nan_to_num(-1).tolist() == [-1, 3, -1]
    assert batch["log_probs"].tolist() == pytest.approx(3 * [math.log(0.5)])


def test_rows_are_those_of_one_environment_after_another() -> None:
    task = PPO(Environments(scripted(steps=9), 2, 0), rollout_steps=3)
    assert task.collect(Constant())["observations"][:, 0].tolist() == [0, 1, 2, 0, 1, 2]


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_ratios_are_one_before_the_first_update_however_far_actions_are_clipped(name: str) -> None:
    """The log-probability kept is that of the action kept: the one before it is clipped to the bounds."""
    pytest.importorskip("gymnasium")
    environments = Environments(name, 2, 0)
    model = build("tiny", **environments.spaces.sizes)
    if model.log_std is not None:
        torch.nn.init.constant_(model.log_std, math.log(3))
    batch = PPO(environments, rollout_steps=20).collect(model)
    if model.log_std is not None:
        assert batch["actions"].abs().max() > 2  # the bound
    log_probs = model.distribution(model(batch["observations"])[0]).log_prob(batch["actions"])
    torch.testing.assert_close(log_probs, batch["log_probs"], atol=1e-5, rtol=0)


def test_an_agent_acts_on_a_device_without_float64() -> None:
    name = scripted(steps=3)
    expected = PPO(Environments(name, 2, 0), rollout_steps=4).collect(Constant())
    with device_without_float64() as device:
        found = PPO(Environments(name, 2, 0), rollout_steps=4).collect(Constant().to(device))
        metric = NegativeReturn()
        metric.update({"returns": found["returns"].to(device)})
        assert metric.compute() == -6
    for key, rows in expected.items():
        torch.testing.assert_close(found[key], rows, equal_nan=True)
