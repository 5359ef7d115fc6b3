"""Transitions: what the last step of an episode is followed by, how many there are, and which streams are drawn from."""

import pytest
import torch

from dl.mytorch.environments import Environments
from dl.mytorch.testing.environments import scripted

gymnasium = pytest.importorskip("gymnasium", reason='gymnasium is not installed: pip install -e ".[rl]"')


def test_the_last_step_of_an_episode_is_followed_by_its_own_observation() -> None:
    environments = Environments(scripted(steps=2, truncated=True), 1, 0)
    first, last, next_first = (environments.step(torch.zeros(1, dtype=torch.int64)) for _ in range(3))
    assert first.next_observations.tolist() == [[1, 1]] and not first.truncated and first.returns.isnan()
    assert last.next_observations.tolist() == [[2, 1]] and last.truncated and not last.terminated
    assert last.returns.tolist() == [3]
    assert next_first.observations.tolist() == [[0, 2]] and next_first.rewards.tolist() == [1]


def test_twelve_steps_of_episodes_of_three_are_twelve_transitions() -> None:
    """With the default autoreset of gymnasium.vector each third step after would be a false one, of reward 0."""
    environments = Environments(scripted(steps=3), 1, 0)
    steps = [environments.step(torch.zeros(1, dtype=torch.int64)) for _ in range(12)]
    assert [step.rewards.item() for step in steps] == 4 * [1, 2, 3]
    assert [bool(step.terminated) for step in steps] == 4 * [False, False, True]


def test_episodes_of_three_steps_report_their_return_each_time() -> None:
    environments = Environments(scripted(steps=3), 2, 0)
    returns = torch.stack([environments.step(torch.zeros(2, dtype=torch.int64)).returns for _ in range(9)])
    assert returns[returns.isfinite()].tolist() == 6 * [6]


def test_transitions_are_those_of_gymnasium_with_autoreset_in_the_same_step() -> None:
    make = [lambda: gymnasium.make("CartPole-v1") for _ in range(3)]
    theirs = gymnasium.vector.SyncVectorEnv(make, autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP)
    seen, _ = theirs.reset(seed=7)
    ours = Environments("CartPole-v1", 3, 7)
    for _ in range(60):
        assert ours.observations.numpy().tolist() == seen.tolist()
        actions = (ours.uniform() * 2).long()
        step = ours.step(actions)
        seen, rewards, terminated, truncated, infos = theirs.step(actions.numpy())
        expected = seen.copy()
        for i in range(3):
            if terminated[i] or truncated[i]:
                expected[i] = infos["final_obs"][i]
        assert step.next_observations.numpy().tolist() == expected.tolist()
        assert (step.rewards.tolist(), step.terminated.tolist()) == (rewards.tolist(), terminated.tolist())


def test_an_environment_and_its_exploration_do_not_depend_on_which_others_there_are() -> None:
    few, many = Environments("CartPole-v1", 1, 3), Environments("CartPole-v1", 4, 3)
    for _ in range(30):
        one, four = few.uniform(), many.uniform()
        assert one[0] == four[0] and torch.equal(few.normal(2)[0], many.normal(2)[0])
        assert torch.equal(few.step((one * 2).long()).next_observations[0], many.step((four * 2).long()).next_observations[0])


def test_a_time_limit_begins_anew_with_each_episode() -> None:
    environments = Environments("Pendulum-v1", 1, 0)
    cut = [bool(environments.step(torch.zeros(1, 1)).truncated) for _ in range(410)]
    assert [t for t, each in enumerate(cut) if each] == [199, 399]
