"""Three updates equal stable-baselines3's; double DQN's loss equals torchrl's. float64, and no step of an environment."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dl.modules.Reinforcement.DQN import train
from dl.modules.Reinforcement.DQN.model import QNetwork
from dl.modules.Reinforcement.DQN.step import QStep
from dl.modules.Reinforcement.DQN.task import QLearning
from dl.mytorch.data import Batch
from dl.mytorch.optim import adamw

pytestmark = pytest.mark.parity


def batches(count: int, size: int = 7) -> list[Batch]:
    """Transitions of 3 numbers and 4 actions, a third of them terminated; rewards so large that Huber's loss is linear too."""
    torch.manual_seed(3)
    made = []
    for _ in range(count):
        seen, after = torch.randn(2, size, 3, dtype=torch.float64)
        rewards, going = 3 * torch.randn(size, dtype=torch.float64), (torch.rand(size) < 2 / 3).double()
        batch = {"observations": seen, "actions": torch.randint(4, (size,)), "rewards": rewards, "next_observations": after}
        made.append(batch | {"discounts": 0.75 * going})
    return made


def our_step(model: QNetwork, folder: Path, given: list[Batch]) -> QStep:
    """A step of three updates from the next of `given`."""
    config = train.Config(out=str(folder), updates=3, lr=0.01, grad_clip=0.5, device="cpu", learning_starts=0)
    task = QLearning(None, None, lambda step: 0.0, gamma=0.75)
    step = QStep(model, task, adamw(0.01, weight_decay=0.0), config)
    feed = iter(given)
    task.draw, task.steps = lambda size: next(feed), 1
    return step


def test_three_updates_equal_stable_baselines3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    import gymnasium as gym
    from stable_baselines3.common import policies
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    class Dummy(gym.Env):
        observation_space = gym.spaces.Box(-10, 10, (3,), np.float64)
        action_space = gym.spaces.Discrete(4)

    monkeypatch.setattr(policies, "preprocess_obs", lambda seen, space, normalize_images=True: seen)  # no cast to float32
    options = {"policy_kwargs": {"net_arch": [5]}, "gamma": 0.75, "learning_rate": 0.01, "max_grad_norm": 0.5}
    theirs = sb3.DQN("MlpPolicy", Dummy(), target_update_interval=2, tau=1.0, device="cpu", **options)
    theirs.policy.double()
    theirs.set_logger(Logger(None, []))
    ours = QNetwork((3,), 4, hidden=(5,)).double()
    copy(theirs.q_net, ours)
    given = batches(6)
    step = our_step(ours, tmp_path, given)
    copy(theirs.q_net_target, step.task.target)
    feed = iter(given)
    theirs.replay_buffer = SimpleNamespace(sample=lambda n, env=None: ReplayBufferSamples(*for_sb3(next(feed))))
    for _ in range(2):
        theirs.train(gradient_steps=3, batch_size=7)
        step.learn([])
        assert_same(theirs.q_net, ours)
        theirs._on_step()
        theirs._on_step()  # copies the target
        step.task.target.load_state_dict(ours.state_dict())
        assert_same(theirs.q_net_target, step.task.target)


def for_sb3(batch: Batch) -> tuple[Tensor | None, ...]:
    """Return observations, actions, next observations, dones, rewards and discounts: columns."""
    column = {name: values[:, None] for name, values in batch.items()}
    dones = (column["discounts"] == 0).double()
    return batch["observations"], column["actions"], batch["next_observations"], dones, column["rewards"], None


def copy(theirs: nn.Module, ours: nn.Module) -> None:
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        own.data.copy_(other.data)


def assert_same(theirs: nn.Module, ours: nn.Module) -> None:
    for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-9, rtol=0, msg=name)


def test_the_loss_of_double_dqn_equals_torchrl_s() -> None:
    pytest.importorskip("torchrl")
    from tensordict import TensorDict
    from torchrl.data import Categorical
    from torchrl.modules import QValueActor
    from torchrl.objectives import DQNLoss

    model = QNetwork((3,), 4, hidden=(5,)).double()
    task = QLearning(None, None, lambda step: 0.0, gamma=0.75, double=True)
    task.begin(model)
    actor = QValueActor(model, in_keys=["observation"], spec=Categorical(4), action_space="categorical")
    theirs = DQNLoss(actor, loss_function="smooth_l1", delay_value=True, double_dqn=True)
    theirs.make_value_estimator(gamma=0.75)
    for parameter in model.parameters():  # both targets stay what it was
        parameter.data += torch.randn_like(parameter)
    batch, plain = batches(1, size=50)[0], QLearning(None, None, lambda step: 0.0, gamma=0.75)
    ends, rewards = batch["discounts"][:, None] == 0, batch["rewards"][:, None]
    after = {"observation": batch["next_observations"], "reward": rewards, "done": ends, "terminated": ends}
    given = TensorDict({"observation": batch["observations"], "action": batch["actions"], "next": after}, [50])
    loss = theirs(given)["loss"]
    torch.testing.assert_close(task.step(model, batch).loss, loss, atol=1e-9, rtol=0)
    plain.begin(task.target)
    assert abs(plain.step(model, batch).loss - loss) > 0.01  # the choice matters here
