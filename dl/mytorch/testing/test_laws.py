"""Each law passes for a right model and fails, with its reason, for one built to violate it."""

from typing import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import sequential
from dl.mytorch.testing import anonymous_layers, assert_batch_independent, assert_causal, assert_gradients_flow, assert_overfits
from dl.mytorch.testing.training import Scaled, small_batch

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))


def test_gradients_flow_in_a_right_model() -> None:
    assert_gradients_flow(Scaled(), small_batch())


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda result, scale: result * scale.detach(), "scale gets no gradient"),
        (lambda result, scale: result * scale * 0, "the gradient of fc.weight is zero everywhere"),
        (lambda result, scale: result * scale * torch.nan, "the gradient of fc.weight is not finite"),
    ],
    ids=["detached", "dead", "nan"],
)
def test_gradients_that_do_not_flow_are_named(use: Callable, says: str) -> None:
    model = Scaled(use)
    with pytest.raises(AssertionError, match=f"{says}|the gradient of scale"):
        assert_gradients_flow(model, small_batch())
    model.fc.requires_grad_(False)
    model.scale.requires_grad_(False)
    model.last = nn.Parameter(torch.ones(()))
    model.use = lambda result, scale: result * model.last
    assert_gradients_flow(model, small_batch())  # of frozen parameters nothing is asked


def test_a_model_overfits_and_one_that_cannot_see_does_not() -> None:
    assert_overfits(Scaled(), small_batch(), lr=0.3)
    with pytest.raises(AssertionError, match=r"still 1\.09\d+ after 20 steps, not below 0.05"):  # ln 3: it guesses
        assert_overfits(Scaled(lambda result, scale: 0 * result + scale), small_batch(), steps=20)


def test_a_model_in_evaluation_mode_is_batch_independent() -> None:
    assert_batch_independent(sequential(fc=nn.Linear(4, 3), norm=nn.BatchNorm1d(3), drop=nn.Dropout()).train(), X)


def test_batch_statistics_are_found_out() -> None:
    class Normed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.batch_norm(x, None, None, training=True) if len(x) > 1 else x

    with pytest.raises(AssertionError, match="output of example 0 alone: differs"):
        assert_batch_independent(Normed(), X)
    with pytest.raises(AssertionError, match="alone"):
        assert_batch_independent(sequential(centred=Centred()), X)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


SEQUENCE = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3))


def test_a_running_sum_is_causal() -> None:
    assert_causal(lambda x: x.cumsum(1), SEQUENCE, SEQUENCE + 1)
    assert_causal(lambda x: x, SEQUENCE, SEQUENCE + 1)


@pytest.mark.parametrize(
    "model",
    [
        lambda x: x.flip(1).cumsum(1).flip(1),
        lambda x: x - x.mean(1, keepdim=True),
        lambda x: torch.cat([x[:, 1:], x[:, -1:]], dim=1),  # one position too far to the right
    ],
    ids=["from the end", "mean", "next"],
)
def test_a_look_into_the_future_is_found_out(model: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError, match="output before position 1, when the input from 1 on changes"):
        assert_causal(model, SEQUENCE, SEQUENCE + 1)


def test_a_model_that_ignores_its_input_is_not_called_causal() -> None:
    with pytest.raises(AssertionError, match="does not depend on the input"):
        assert_causal(lambda x: torch.zeros_like(x), SEQUENCE, SEQUENCE + 1)


def test_layers_named_by_a_digit_are_found_but_for_repeated_blocks() -> None:
    named = nn.Sequential()
    named.add_module("conv1", nn.Conv2d(1, 1, 1))
    blocks = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    assert anonymous_layers(named) == anonymous_layers(nn.ModuleDict({"blocks": blocks})) == []
    assert anonymous_layers(nn.Sequential(nn.ReLU(), nn.ReLU())) == ["0", "1"]
