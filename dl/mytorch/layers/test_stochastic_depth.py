"""`StochasticDepth` by its definition."""

import pytest
import torch
from torch import nn

from dl.mytorch.layers import StochasticDepth


def test_each_example_is_dropped_or_divided_by_the_probability_to_stay() -> None:
    x = torch.randn(64, 3, 2, 2)
    y = StochasticDepth(0.4)(x)
    dropped = [i for i in range(64) if torch.equal(y[i], torch.zeros_like(x[i]))]
    assert 10 < len(dropped) < 45
    for i in set(range(64)) - set(dropped):
        torch.testing.assert_close(y[i], x[i] / 0.6)


@pytest.mark.parametrize("shape", [(20_000,), (20_000, 1), (20_000, 1, 1, 1)])
def test_expectation_is_the_branch_and_the_share_dropped_the_probability(shape: tuple[int, ...]) -> None:
    y = StochasticDepth(0.25)(torch.ones(shape))
    assert y.shape == shape
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.015)


def test_examples_are_dropped_independently() -> None:
    layer, x = StochasticDepth(0.5), torch.ones(2, 1)
    both = torch.stack([layer(x)[:, 0] > 0 for _ in range(2000)]).float()  # (2000, 2)
    assert (both[:, 0] * both[:, 1]).mean().item() == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("layer", [StochasticDepth(0.9).eval(), StochasticDepth(0.0)])
def test_it_is_the_identity_in_evaluation_and_at_probability_zero(layer: nn.Module) -> None:
    x = torch.randn(8, 3)
    state = torch.get_rng_state()
    assert torch.equal(layer(x), x)
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn


def test_gradient_is_that_of_the_examples_that_stay() -> None:
    x = torch.randn(16, 3, requires_grad=True)
    y = StochasticDepth(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, torch.where(y == 0, 0.0, 2.0))


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_what_is_no_probability_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        StochasticDepth(probability)
