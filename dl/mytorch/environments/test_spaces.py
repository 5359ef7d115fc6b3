"""Sizes of networks, rows of tensors, and what no network here fits."""

from typing import Any

import numpy as np
import pytest

from dl.mytorch.config import UserError
from dl.mytorch.environments import Environments
from dl.mytorch.environments.member import Member
from dl.mytorch.testing.environments import scripted

gymnasium = pytest.importorskip("gymnasium", reason='gymnasium is not installed: pip install -e ".[rl]"')
Box, Discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete


def test_sizes_are_those_of_the_spaces() -> None:
    spaces = Member("CartPole-v1", 0, 0).spaces
    assert spaces.sizes == {"observation_size": 4, "num_actions": 2, "action_size": 0}
    spaces = Member("Pendulum-v1", 0, 0).spaces
    assert (spaces.observation_size, spaces.num_actions, spaces.action_size) == (3, 0, 1)
    assert (spaces.low.tolist(), spaces.high.tolist()) == ([-2], [2])


def test_a_discrete_observation_is_one_hot_from_its_first_state_on() -> None:
    name = scripted(observation_space=Discrete(3, start=5), seen={0: np.int64(6), 1: 7})
    assert Member(name, 0, 0).observation.tolist() == [0, 1, 0]


def test_actions_are_counted_from_0_and_shifted_to_the_first_of_the_space() -> None:
    taken: list[Any] = []
    member = Member(scripted(action_space=Discrete(2, start=-1), actions=taken), 0, 0)
    member.step(0)
    member.step(1)
    assert taken == [-1, 0] and all(type(action) is int for action in taken)


def test_actions_of_a_box_are_clipped_to_its_bounds() -> None:
    taken: list[Any] = []
    member = Member(scripted(action_space=Box(np.array([-1, 0]), np.array([1, 3]), dtype=np.float32), actions=taken), 0, 0)
    member.step([5.0, -5.0])
    assert taken[0].tolist() == [1, 0] and taken[0].dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_space": gymnasium.spaces.Dict({"a": Discrete(2)})}, "has observations Dict"),
        ({"observation_space": gymnasium.spaces.Text(3)}, "has observations Text"),
        ({"observation_space": Box(0, 255, (8, 8, 3), np.uint8)}, r"has observations Box of shape \(8, 8, 3\)"),
        ({"action_space": gymnasium.spaces.MultiDiscrete([2, 3])}, r"has actions MultiDiscrete of shape \(2,\)"),
        ({"action_space": gymnasium.spaces.Tuple([Discrete(2)])}, "has actions Tuple"),
        ({"action_space": Box(-np.inf, np.inf, (2,), np.float32)}, r"has actions Box of shape \(2,\)"),
    ],
)
def test_an_unsupported_space_is_one_line_that_says_what_is_supported(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^Scripted-v0 {message}: supported are observations Box .* bounded Box of one axis$"):
        Environments(scripted(**changes), 2, 0)
