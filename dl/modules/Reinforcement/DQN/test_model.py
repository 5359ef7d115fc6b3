"""The networks against plain stacks of torch's layers, the dueling head by hand, and what every model has to prove."""

import pytest
import torch
from torch import nn

from dl.modules.Reinforcement.DQN import train
from dl.modules.Reinforcement.DQN.model import build, dueling
from dl.modules.Reinforcement.DQN.task import QLearning
from dl.modules.Reinforcement.recipe import agent_splits
from dl.modules.Reinforcement.testing import SMALL
from dl.mytorch import testing
from dl.mytorch.data import Batch
from dl.mytorch.introspect import count_parameters, without_values


def test_presets_have_the_parameters_of_their_layers() -> None:
    with without_values():
        assert count_parameters(build("classic")) == 5 * 256 + 257 * 256 + 257 * 2 == 67_586
        kernels = (4 * 64 + 1) * 32 + (32 * 16 + 1) * 64 + (64 * 9 + 1) * 64
        assert count_parameters(build("atari")) == kernels + 3137 * 512 + 513 * 18 == 1_693_362


def test_classic_equals_a_plain_stack() -> None:
    model = build("classic", hidden=(6, 5))
    twin = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    testing.assert_same_as(model, twin, torch.randn(3, 4))


def test_atari_equals_a_plain_stack() -> None:
    model = build("atari", hidden=(5,), convolutions=((3, 8, 4), (4, 4, 2), (4, 3, 1)))
    convolutions = [nn.Conv2d(4, 3, 8, 4), nn.ReLU(), nn.Conv2d(3, 4, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 1), nn.ReLU()]
    twin = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(4 * 7 * 7, 5), nn.ReLU(), nn.Linear(5, 18))
    twin.load_state_dict(dict(zip(twin.state_dict(), model.state_dict().values(), strict=True)))
    frames = torch.randint(256, (2, 4, 84, 84))
    torch.testing.assert_close(model(frames), twin(frames / 255))


def test_the_dueling_head_by_hand() -> None:
    """V = 2, A = (1, -1, 3): the mean advantage is 1. With the largest in its place it would be (0, -2, 2)."""
    assert dueling(torch.tensor([[2.0]]), torch.tensor([[1.0, -1.0, 3.0]])).tolist() == [[2, 0, 4]]


def test_a_dueling_network_adds_its_two_heads() -> None:
    model, x = build("tiny", dueling=True, num_actions=3), torch.randn(5, 4)
    hidden = model.layers(x)
    value, advantage = model.head.value(hidden), model.head.advantage(hidden)
    torch.testing.assert_close(model(x), value + advantage - advantage.mean(1, keepdim=True))
    torch.testing.assert_close(model(x).mean(1, keepdim=True), value)


def test_the_action_of_the_highest_value_is_taken() -> None:
    model, x = build("tiny", num_actions=5), torch.randn(7, 4)
    assert model.act(x).tolist() == model(x).argmax(1).tolist()


def transitions() -> Batch:
    numbers = {"observations": torch.randn(8, 4), "next_observations": torch.randn(8, 4), "rewards": torch.randn(8)}
    return numbers | {"actions": torch.arange(8) % 2, "discounts": torch.tensor([0.0, 0.9]).repeat(4)}


def task() -> QLearning:
    made = QLearning(None, None, lambda step: 0.0)
    made.begin(build("tiny"))
    return made


@pytest.fixture(autouse=True)
def _gymnasium() -> None:
    pytest.importorskip("gymnasium")


CONFIG = train.Config(
    **SMALL, env_steps=48, train_every=8, learning_starts=10, capacity=20, eval_episodes=2, test_episodes=2, prioritized=True
)

test_standard = testing.standard_checks(
    build,
    train.main,
    lambda folder: CONFIG,
    transitions,
    splits=lambda config: agent_splits(config, config.train_every),
    task=task,
    variants=({}, {"dueling": True}),
    inputs=lambda: (torch.randn(3, 4),),
    overfit=(testing.Overfit(), testing.Overfit(options={"dueling": True})),
)
