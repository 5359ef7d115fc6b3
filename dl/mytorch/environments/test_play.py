"""Whole episodes of a fixed policy, and the quantity that falls as it gets better."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from dl.mytorch.environments import NegativeReturn, play
from dl.mytorch.environments.member import make
from dl.mytorch.testing.environments import scripted


def leaning(observations: Tensor) -> Tensor:
    """Push the cart to the side to which the pole falls."""
    return (observations[:, 2] + observations[:, 3] > 0).long()


def test_each_seed_is_one_episode_whichever_others_are_played() -> None:
    pytest.importorskip("gymnasium")
    together = play("CartPole-v1", lambda seen: (seen[:, 2] > 0).long(), [3, 4, 5])
    alone = [play("CartPole-v1", lambda seen: (seen[:, 2] > 0).long(), [seed]) for seed in (3, 4, 5)]
    assert together.returns.tolist() == [each.returns.item() for each in alone]
    assert together.lengths.tolist() == together.returns.tolist() and len(set(together.returns.tolist())) > 1


def test_an_episode_that_is_over_is_not_stepped_again() -> None:
    returns, lengths = play(scripted(steps=3), zeros, [0, 1])
    assert (returns.tolist(), lengths.tolist()) == ([6, 6], [3, 3])


def zeros(observations: Tensor) -> Tensor:
    return torch.zeros(len(observations), dtype=torch.int64)


def test_no_seeds_are_no_episodes() -> None:
    assert play("CartPole-v1", leaning, []).returns.shape == (0,)


def test_playing_draws_from_no_stream_of_training() -> None:
    pytest.importorskip("gymnasium")
    before = torch.get_rng_state()
    play("CartPole-v1", leaning, range(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_mean_return_is_recorded_with_the_other_sign() -> None:
    metric = NegativeReturn()
    metric.update({"returns": torch.tensor([500.0, math.nan, 400.0])})
    metric.update({"returns": torch.tensor([300.0])})
    metric.update({"loss": torch.tensor(1.0)})  # a minibatch that tells of no episode
    assert metric.compute() == pytest.approx(-400)
    assert math.isnan(NegativeReturn().compute())


def test_the_mean_return_is_the_value_of_the_policy() -> None:
    """FrozenLake's best policy by value iteration; its success within the limit of 100 steps, exactly and played."""
    pytest.importorskip("gymnasium")
    table = make("FrozenLake-v1").unwrapped.P
    moves = torch.zeros(16, 4, 16, dtype=torch.float64)  # probabilities of going on, which the end of an episode has none of
    rewards = torch.zeros(16, 4, dtype=torch.float64)
    for s, a in itertools.product(range(16), range(4)):
        for probability, following, reward, terminated in table[s][a]:
            rewards[s, a] += probability * reward
            moves[s, a, following] += probability * (not terminated)
    values = torch.zeros(16, dtype=torch.float64)
    for _ in range(2000):
        values = (rewards + 0.99 * moves @ values).amax(1)
    assert values[0].item() == pytest.approx(0.542026, abs=1e-6)
    best = (rewards + 0.99 * moves @ values).argmax(1)
    place, success = torch.eye(16, dtype=torch.float64)[0], 0.0
    for _ in range(100):
        success += (place * rewards[range(16), best]).sum().item()
        place = place @ moves[range(16), best]
    assert 0.6 < success < 0.744191  # what no policy exceeds
    returns, lengths = play("FrozenLake-v1", lambda seen: best[seen.argmax(1)], range(100))
    assert abs(returns.mean().item() - success) < 4 * returns.std().item() / 100**0.5
    assert lengths.max() == 100 and set(returns.tolist()) == {0, 1}
