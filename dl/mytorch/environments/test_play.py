"""Whole episodes of a fixed policy, and the quantity that falls as it gets better."""

import math

import pytest
import torch
from torch import Tensor

from dl.mytorch.environments import NegativeReturn, play
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
