"""The losses by hand, what is written into the replay, when the target network moves, and whole runs."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dl.modules.Reinforcement import off_policy
from dl.modules.Reinforcement.DQN import train
from dl.modules.Reinforcement.DQN.model import build
from dl.modules.Reinforcement.DQN.step import QStep
from dl.modules.Reinforcement.DQN.task import QLearning, linear, td_target
from dl.modules.Reinforcement.testing import SMALL
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.environments import Environments
from dl.mytorch.environments.replay import PrioritizedReplay, Replay
from dl.mytorch.files import read_json
from dl.mytorch.optim import sgd
from dl.mytorch.testing.environments import scripted
from dl.mytorch.testing.processes import assert_kills_change_nothing

CONFIG = train.Config(
    **SMALL, env_steps=48, train_every=8, learning_starts=10, capacity=20, eval_episodes=2, test_episodes=2, plots=False
)


@pytest.fixture(autouse=True)
def _gymnasium() -> None:
    pytest.importorskip("gymnasium")


def learner(folder: Path, name: str, num_envs: int = 1, epsilon: float = 1.0, **options: Any) -> QLearning:
    """A task with a replay of 50 rows in `folder`, and a small network."""
    environments = Environments(name, num_envs, 0)
    spaces = environments.spaces
    replay = Replay(folder / "replay.bin", 50, 0, ((spaces.observation_size,), "float32"), ((), "int64"), num_envs)
    task = QLearning(environments, replay, lambda step: epsilon, **options)
    task.begin(build("tiny", observation_shape=(spaces.observation_size,), num_actions=spaces.num_actions))
    return task


def written(task: QLearning) -> np.ndarray:
    """The rows of the replay, in order."""
    return task.replay.ring[: task.replay.count]


# ---- the loss ------------------------------------------------------------------------------------------------------


def test_targets_by_hand() -> None:
    online, target = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[3.0, 0.5, 4.0]])
    one, discount = torch.ones(1), torch.tensor([0.9])
    assert td_target(one, discount, target, target).item() == pytest.approx(4.6)
    assert td_target(one, discount, target, online).item() == pytest.approx(1.45)  # double
    assert td_target(one, 0 * discount, target, target).item() == 1  # terminated


class Constant(torch.nn.Module):
    """The same values for every observation."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.values.expand(len(observations), -1)

    def act(self, observations: torch.Tensor) -> torch.Tensor:
        return self(observations).argmax(1)


@pytest.mark.parametrize(("error", "loss", "gradient"), [(3.0, 2.5, 1.0), (0.5, 0.125, 0.5), (-3.0, 2.5, -1.0)])
def test_an_error_above_1_has_the_gradient_1(error: float, loss: float, gradient: float) -> None:
    """The error is clipped in its gradient. Clipped inside the square, an error of 3 would have none."""
    model, task = Constant(error, 7.0), QLearning(None, None, lambda step: 0.0)
    task.begin(Constant(0.0, 0.0))
    seen = torch.zeros(1, 4)
    batch = {"observations": seen, "next_observations": seen, "actions": torch.tensor([0])}
    output = task.step(model, batch | {"rewards": torch.zeros(1), "discounts": torch.ones(1)})
    assert output.loss.item() == pytest.approx(loss)
    output.loss.backward()
    assert model.values.grad.tolist() == pytest.approx([gradient, 0])
    weighted = task.step(model, batch | {"rewards": torch.zeros(1), "discounts": torch.ones(1), "weights": torch.tensor([0.5])})
    assert weighted.loss.item() == pytest.approx(loss / 2) and output.outputs["errors"].tolist() == [error]


# ---- acting --------------------------------------------------------------------------------------------------------


def test_the_next_observation_of_a_truncated_episode_is_its_last_one(tmp_path: Path) -> None:
    task = learner(tmp_path, scripted(steps=3, truncated=True))
    task.collect(12)
    rows = written(task)
    assert rows["observations"][:, 0].tolist() == [[t, e] for e in (1, 2, 3, 4) for t in (0, 1, 2)]
    assert rows["next_observations"][:, 0].tolist() == [[t, e] for e in (1, 2, 3, 4) for t in (1, 2, 3)]
    assert rows["truncated"][:, 0].tolist() == 4 * [False, False, True] and not rows["terminated"].any()


def test_twelve_steps_are_twelve_transitions_and_none_is_false(tmp_path: Path) -> None:
    task = learner(tmp_path, scripted(steps=3))
    batch = task.collect(12)
    assert len(task.replay) == 12 and written(task)["rewards"][:, 0].tolist() == 4 * [1, 2, 3]
    assert batch["discounts"].tolist() == pytest.approx(4 * [0.99, 0.99, 0])


def test_pendulum_never_terminates(tmp_path: Path) -> None:
    environments = Environments("Pendulum-v1", 1, 0)
    replay = Replay(tmp_path / "replay.bin", 250, 0, ((3,), "float32"), ((1,), "float32"))
    for _ in range(250):
        made = environments.step(torch.zeros(1, 1))._asdict()
        replay.add(**{name: value.numpy() for name, value in made.items() if name != "returns"})
    assert not replay.ring["terminated"].any() and replay.ring["truncated"].sum() == 1
    assert replay.gather(torch.arange(250), 0.9)["discounts"].eq(0.9).all()


def test_epsilon_falls_linearly_and_stays() -> None:
    epsilon = linear(1.0, 0.04, 8000)
    assert [epsilon(step) for step in (0, 4000, 8000, 50_000)] == pytest.approx([1, 0.52, 0.04, 0.04])


def test_actions_are_random_with_the_chance_epsilon(tmp_path: Path) -> None:
    task = learner(tmp_path, "CartPole-v1", num_envs=20)
    task.begin(Constant(0.0, 1.0))
    shares = []
    for epsilon in (0.0, 0.5, 1.0):
        task.epsilon = lambda step: epsilon
        shares.append(torch.stack([task.explore(torch.zeros(20, 4)) for _ in range(50)]).float().mean().item())
    assert shares[0] == 1 and shares[1] == pytest.approx(0.75, abs=0.06) and shares[2] == pytest.approx(0.5, abs=0.07)
    task.epsilon, task.learning_starts = (lambda step: 0.0), 1
    assert task.explore(torch.zeros(20, 4)).float().mean() < 1  # all are random until learning starts


# ---- the target network --------------------------------------------------------------------------------------------


def test_the_target_network_is_no_part_of_the_one_that_learns(tmp_path: Path) -> None:
    task = learner(tmp_path, "CartPole-v1")
    config = dataclasses.replace(CONFIG, out=str(tmp_path), learning_starts=0)
    step = QStep(task.model, task, sgd(0.1), config)
    before = [parameter.clone() for parameter in task.target.parameters()]
    step([task.collect(8)])
    pairs = list(zip(task.target.parameters(), step.model.parameters(), strict=True))
    assert all(a.data_ptr() != b.data_ptr() and not torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(task.target.parameters(), before))


@pytest.mark.parametrize(("num_envs", "target_every", "moves"), [(1, 3, [3, 6, 9]), (2, 4, [4, 8]), (2, 1, [2, 4, 6, 8, 10])])
def test_the_target_network_moves_every_so_many_environment_steps(
    tmp_path: Path, num_envs: int, target_every: int, moves: list[int]
) -> None:
    """Also after a resume: what counts is the number of steps since the beginning."""
    task = learner(tmp_path, "CartPole-v1", num_envs, target_every=target_every)
    found = []
    for steps in range(num_envs, 11, num_envs):
        task.model.head.bias.data += 1
        if steps > 5:
            again = learner(tmp_path, "CartPole-v1", num_envs, target_every=target_every)
            again.load_own_state(task.own_state())
            again.model.load_state_dict(task.model.state_dict())
            task = again
        task.collect(1)
        if torch.equal(task.target.head.bias, task.model.head.bias):
            found.append(steps)
    assert found == moves


# ---- updates -------------------------------------------------------------------------------------------------------


def test_nothing_is_learned_before_learning_starts(tmp_path: Path) -> None:
    task = learner(tmp_path, "CartPole-v1", learning_starts=8)
    step = QStep(task.model, task, sgd(0.1), dataclasses.replace(CONFIG, out=str(tmp_path), learning_starts=8))
    before = task.model.head.bias.clone()
    step([task.collect(8)])
    assert torch.equal(task.model.head.bias, before) and step.gradient_norm == 0
    step([task.collect(1)])
    assert not torch.equal(task.model.head.bias, before)


def test_priorities_become_the_errors_of_the_update(tmp_path: Path) -> None:
    environments = Environments("CartPole-v1", 1, 0)
    replay = PrioritizedReplay(tmp_path / "replay.bin", 50, 0, ((4,), "float32"), ((), "int64"), alpha=1.0)
    task = QLearning(environments, replay, lambda step: 1.0)
    step = QStep(build("tiny"), task, sgd(1e-9), dataclasses.replace(CONFIG, out=str(tmp_path), learning_starts=0, updates=30))
    step([task.collect(6)])
    with torch.no_grad():
        errors = task.step(task.model, replay.gather(torch.arange(6), task.gamma)).outputs["errors"].abs()
    torch.testing.assert_close(replay.priorities[:6].float(), errors, atol=1e-4, rtol=0)
    assert task.draw(3)["weights"].max() == 1


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_without_evaluations_learns_the_same_bits(tmp_path: Path, no_reports: None) -> None:
    for name, every in (("often", 1), ("once", 6)):
        train.main(dataclasses.replace(CONFIG, out=str(tmp_path / name), eval_every=every))
    often, once = (checkpoint.load(tmp_path / name / "last.pt") for name in ("often", "once"))
    for part in ("model", "optimizers", "own", "rng"):
        testing.assert_same_state(often[part], once[part], part)
    history = read_json(tmp_path / "often" / "history.json")
    assert [record["environment_steps"] for record in history if "val" in record] == [8, 16, 24, 32, 40, 48]


@pytest.mark.parametrize("options", [{"double": True, "num_envs": 3, "n_step": 3}, {"prioritized": True, "dueling": True}])
def test_options_resume_exactly(tmp_path: Path, options: dict[str, Any], no_reports: None) -> None:
    config = dataclasses.replace(CONFIG, out=str(tmp_path), **options)
    testing.assert_resumes_exactly(train.main, config, lambda: train.agent_splits(config, config.train_every))


def test_a_replay_that_was_changed_ends_a_resume_in_one_line(tmp_path: Path, no_reports: None) -> None:
    config = dataclasses.replace(CONFIG, out=str(tmp_path))
    train.main(config)
    path = tmp_path / "replay.bin"
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    with pytest.raises(UserError, match="replay.bin was changed since it was written.*--fresh starts the run over"):
        train.main(config)


@pytest.mark.parametrize(
    ("flags", "capacity", "rows"),
    [
        ({}, 20, 20 + 2 * 24),
        ({"save_every": 0}, 20, 20 + 2 * 48),  # each epoch is saved
        ({"capacity": 100}, 48, 48 + 2 * 24),  # no more than are ever written
        ({"steps": 100, "save_every": 50}, 20, 20 + 2 * 400),  # of several epochs
        ({"num_envs": 3}, 7, 7 + 2 * 9),  # a row has three transitions, an iteration three rows
    ],
)
def test_the_replay_has_rows_to_spare_for_two_saves(flags: dict[str, Any], capacity: int, rows: int) -> None:
    config = dataclasses.replace(CONFIG, **flags)
    replay = train.make_replay(config, Environments(config.data, config.num_envs, 0))
    assert (replay.capacity, replay.rows) == (capacity, rows)


def test_what_dqn_cannot_do_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="Pendulum-v1 has actions of 1 numbers, which DQN cannot list: try SAC or PPO"):
        train.build_model(dataclasses.replace(CONFIG, data="Pendulum-v1"))
    for wrong in ({"updates": 0}, {"epsilon": 1.5}, {"gamma": -0.1}, {"capacity": 0}, {"parallel": "ddp"}):
        with pytest.raises(UserError, match="--" + next(iter(wrong))):
            dataclasses.replace(CONFIG, **wrong)


def test_several_ranks_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(off_policy, "world_size", lambda: 2)
    with pytest.raises(UserError, match="trains in one process: start it without torchrun"):
        train.main(CONFIG)


def start(out: Path) -> subprocess.Popen:
    words = [sys.executable, "-m", "dl.modules.Reinforcement.DQN.train", "--out", str(out), "--model", "tiny", "--no-plots"]
    flags = {"env-steps": 1200, "train-every": 10, "updates": 4, "batch-size": 16, "capacity": 200, "learning-starts": 50}
    flags |= {"num-envs": 2, "n-step": 3, "eval-every": 40, "save-every": 3, "eval-episodes": 2, "test-episodes": 2}
    words += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen([*words, "--prioritized", "--double"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_kills_leave_the_bytes_of_the_undisturbed_run(tmp_path: Path) -> None:
    """kill -9 ten times, each a while after a checkpoint: what was written into the replay since is written again."""
    assert_kills_change_nothing(start, tmp_path, np.random.default_rng(0).uniform(0, 0.03, 10))
