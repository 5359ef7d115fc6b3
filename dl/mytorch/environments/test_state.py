"""Environments continue from their saved state to the bit, or say that they do not."""

import io
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.mytorch.environments import Environments, Transitions
from dl.mytorch.testing.environments import scripted

gymnasium = pytest.importorskip("gymnasium", reason='gymnasium is not installed: pip install -e ".[rl]"')


def drawn(environments: Environments) -> Tensor:
    """Random actions, from the generators of exploration."""
    spaces = environments.spaces
    if spaces.num_actions:
        return (environments.uniform() * spaces.num_actions).long()
    return environments.normal(spaces.action_size)


def played(environments: Environments, steps: int) -> list[Transitions]:
    return [environments.step(drawn(environments)) for _ in range(steps)]


def through_a_file(state: Any) -> Any:
    """What `torch.load(weights_only=True)` makes of a checkpoint that holds it."""
    file = io.BytesIO()
    torch.save(state, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=True)


def assert_continues(name: str, before: int, after: int) -> None:
    whole = Environments(name, 2, 5)
    played(whole, before)
    again = Environments(name, 2, 99)
    again.load_state(through_a_file(whole.state()))
    assert torch.equal(again.observations, whole.observations)
    for left, right in zip(*(itertools.chain(*played(each, after)) for each in (whole, again)), strict=True):
        assert torch.equal(left.nan_to_num(7e7), right.nan_to_num(7e7))


CLASSIC = ("CartPole-v1", "Pendulum-v1", "MountainCar-v0", "MountainCarContinuous-v0", "Acrobot-v1")
TOYS = ("FrozenLake-v1", "CliffWalking-v1", "Taxi-v4")


@pytest.mark.parametrize("name", CLASSIC + TOYS)
def test_an_environment_continues_from_its_state_to_the_bit(name: str) -> None:
    assert Environments(name, 1, 0).how_they_resume == "set"
    assert_continues(name, before=33, after=40)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIC + TOYS)
def test_an_environment_continues_to_the_bit_over_its_time_limits(name: str) -> None:
    for before in (1, 150, 437):
        assert_continues(name, before, after=1100)


def test_the_steps_of_the_time_limit_continue() -> None:
    whole = Environments("Pendulum-v1", 1, 0)
    played(whole, 150)
    again = Environments("Pendulum-v1", 1, 1)
    again.load_state(whole.state())
    assert [bool(each.truncated) for each in played(again, 51)].index(True) == 49


@pytest.mark.slow
@pytest.mark.parametrize("name", ["LunarLander-v3", "LunarLanderContinuous-v3"])
def test_lunar_lander_is_replayed_from_its_last_reset(name: str) -> None:
    pytest.importorskip("Box2D", reason='box2d is not installed: pip install -e ".[rl]"')
    assert Environments(name, 1, 0).how_they_resume == "replayed"
    for before in (0, 20, 157):
        assert_continues(name, before, after=300)


def test_any_other_environment_begins_a_new_episode_and_says_so() -> None:
    environments = Environments(scripted(steps=5), 2, 0)
    played(environments, 2)
    assert environments.how_they_resume == "not exactly"
    again = Environments("Scripted-v0", 2, 0)
    again.load_state(through_a_file(environments.state()))
    assert again.observations[:, 0].tolist() == [0, 0] and again.members[0].total == 0
    assert again.members[0].env.unwrapped.np_random.random() == environments.members[0].env.unwrapped.np_random.random()


def test_a_wrapper_with_a_state_of_its_own_is_not_taken_for_exact() -> None:
    from dl.mytorch.environments.state import how_it_resumes

    plain = gymnasium.make("CartPole-v1")
    assert how_it_resumes(plain) == "set"
    assert how_it_resumes(gymnasium.wrappers.RecordEpisodeStatistics(plain)) == "not exactly"
