"""Comparing passes for a right twin, and fails, with its reason, for one built to differ."""

from typing import Callable

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.layers import sequential
from dl.mytorch.testing import assert_same_as, assert_same_function, randomize_norms
from dl.mytorch.testing.training import Scaled

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))


def test_a_copy_is_the_same() -> None:
    assert_same_as(Scaled(), Scaled(lambda result, scale: scale * result), X)


def test_outputs_may_be_nested_tuples_and_dicts_and_each_is_compared() -> None:
    def two(change: float = 0.0) -> Callable:
        return lambda result, scale: {"a": result * scale, "rest": (result, scale * 2 + change)}

    assert_same_as(Scaled(two()), Scaled(two()), X)
    with pytest.raises(AssertionError, match="output 2 at step 0: differs by 1e-06"):
        assert_same_as(Scaled(two()), Scaled(two(1e-6)), X)
    with pytest.raises(AssertionError, match="3 outputs, the twin has 1"):
        assert_same_as(Scaled(two()), Scaled(), X)


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda result, scale: result * scale + 1e-8, "outputs at step 0: differs"),
        (lambda result, scale: result * scale.detach(), "gradient of scale at step 0: missing"),
        (lambda result, scale: result * (2 * scale - scale.detach()), "gradient of scale at step 0: differs"),
        (lambda result, scale: result.detach() + result * (scale - 1), "gradient of fc.weight at step 0: differs"),
        (lambda result, scale: (result * scale)[:, :2], r"outputs at step 0: shape \(5, 2\)|outputs at step 0: shape \(5, 3\)"),
        (lambda result, scale: result * scale * torch.nan, "outputs at step 0: differs by nan"),
    ],
    ids=["output", "detached", "gradient", "no gradient to fc", "shape", "nan"],
)
def test_a_wrong_twin_is_told_apart(use: Callable, says: str) -> None:
    for pair in ((Scaled(), Scaled(use)), (Scaled(use), Scaled())):
        with pytest.raises(AssertionError, match=says):
            assert_same_as(*pair, X)


def test_a_twin_with_other_parameters_is_told_apart() -> None:
    wider = Scaled()
    wider.extra = nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match="2 parameters|3 parameters"):
        assert_same_as(Scaled(), wider, X)
    moved = Scaled()
    moved.fc.bias.data += 1e-6
    with pytest.raises(AssertionError, match="outputs at step 0"):
        assert_same_as(Scaled(), moved, X)


def test_gradients_of_inputs_are_compared() -> None:
    class Cut(nn.Module):
        def __init__(self, cut: bool) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))
            self.cut = cut

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x + (x.detach() - x.detach() if self.cut else x - x.detach())

    assert_same_as(Cut(True), Cut(True), X)
    with pytest.raises(AssertionError, match="gradient of input 0"):
        assert_same_as(Cut(False), Cut(True), X)


def test_comparing_changes_neither_model() -> None:
    model, twin = Scaled(), Scaled()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert_same_as(model, twin, X)
    for same in (model, twin):
        assert all(
            torch.equal(tensor, before[name]) and tensor.dtype == torch.float32 for name, tensor in same.state_dict().items()
        )
        assert all(parameter.grad is None for parameter in same.parameters())


def test_modes_are_the_asked_ones_and_dropout_is_drawn_alike() -> None:
    model = sequential(fc=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), drop=nn.Dropout(0.5))
    twin = sequential(fc=nn.Linear(4, 4), norm=nn.BatchNorm1d(4), drop=nn.Dropout(0.5))
    twin.load_state_dict(model.state_dict())
    assert_same_as(model, twin, X, train=True)
    twin.drop.p = 0.4
    assert_same_as(model, twin, X, train=False)
    with pytest.raises(AssertionError, match="outputs"):
        assert_same_as(model, twin, X, train=True)


def test_token_inputs_are_compared_too() -> None:
    model = nn.Embedding(7, 3)
    assert_same_as(model, nn.Embedding.from_pretrained(model.weight.detach().clone(), freeze=False), torch.tensor([[1, 2, 6]]))


def test_randomized_norms_show_all_that_they_hold() -> None:
    model = randomize_norms(nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8)), scale=(2, 3), shift=0.5)
    norm = model[1]
    for tensor in (norm.weight, norm.running_var):
        assert len(tensor.unique()) == 8 and tensor.min() >= 2 and tensor.max() <= 3
    for tensor in (norm.bias, norm.running_mean):
        assert len(tensor.unique()) == 8 and 0 < tensor.abs().max() < 2.5


class Counting(nn.Module):
    """A linear layer that counts its calls, and gives its output and what it is asked for besides."""

    def __init__(self, more: Callable[[Tensor], Tensor], step: int = 1) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.more, self.step = more, step
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, int]]:
        self.calls += self.step
        return self.fc(x), (self.more(x), 7)


def test_the_same_function_written_otherwise_passes() -> None:
    assert_same_function(Counting(torch.square), Counting(lambda x: x * x), X)
    assert_same_function(lambda x, y: (x + y, None), lambda x, y: (y + x, None), X, X + 1)


@pytest.mark.parametrize(
    ("more", "step", "says"),
    [
        (lambda x: x * x + 1e-9, 1, "output 1: differs"),
        (lambda x: x * x.detach(), 1, "gradient of input 0: differs"),
        (lambda x: (x * x)[:1], 1, "output 1: shape"),
        (torch.square, 2, "calls: differs"),
    ],
)
def test_another_output_gradient_or_buffer_is_found(more: Callable[[Tensor], Tensor], step: int, says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        assert_same_function(Counting(more, step), Counting(torch.square), X)


def test_another_gradient_of_a_parameter_is_found() -> None:
    own = nn.Linear(4, 3)
    own.weight.register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(AssertionError, match="gradient of weight: differs"):
        assert_same_function(own, nn.Linear(4, 3), X)
