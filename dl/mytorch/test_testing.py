"""Each assertion passes on a right model and fails, with its reason, on one built to violate it."""

import json
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import TrainConfig, checkpoint
from dl.mytorch.data import Batch, Splits
from dl.mytorch.layers import sequential
from dl.mytorch.testing import (
    Overfit,
    anonymous_layers,
    assert_batch_independent,
    assert_causal,
    assert_gradients_flow,
    assert_overfits,
    assert_same_as,
    assert_same_function,
    assert_same_runs,
    randomize_norms,
    standard_checks,
)


class Scaled(nn.Module):
    """A linear layer times a parameter; `use` says what becomes of the parameter and of the result."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(3))
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self.fc(x.flatten(1)), self.scale)


def small_batch() -> Batch:
    torch.manual_seed(1)
    return {"images": torch.randn(6, 1, 2, 2), "labels": torch.tensor([0, 1, 2, 0, 1, 2])}


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))


def test_a_copy_is_the_same() -> None:
    assert_same_as(Scaled(), Scaled(lambda result, scale: scale * result), X)


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
        assert all(torch.equal(tensor, before[name]) and tensor.dtype == torch.float32 for name, tensor in same.state_dict().items())
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


def write_run(folder: Path, history: Any = (1, 2), best: float = 0.5, last: Any = None) -> Path:
    folder.mkdir()
    (folder / "history.json").write_text(json.dumps(history), encoding="utf-8")
    checkpoint.save({"w": torch.tensor(best)}, folder / "best.pt")
    checkpoint.save(last or {"a": [torch.ones(2), {"b": (1, "x")}]}, folder / "last.pt")
    return folder


def test_equal_runs_are_the_same(tmp_path: Path) -> None:
    assert_same_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"history": [1, 3]}, "history.json differs"),
        ({"best": 0.25}, "best.pt differs"),
        ({"last": {"a": [torch.tensor([1.0, 1.0000001]), {"b": (1, "x")}]}}, r"last.pt\['a'\]\[0\] differs"),
        ({"last": {"a": [torch.ones(2).double(), {"b": (1, "x")}]}}, r"last.pt\['a'\]\[0\] differs"),
        ({"last": {"a": [torch.ones(2), {"b": (1, "y")}]}}, r"last.pt\['a'\]\[1\]\['b'\]\[1\]: 'x' and 'y'"),
        ({"last": {"a": [torch.ones(2), {"c": (1, "x")}]}}, r"last.pt\['a'\]\[1\] has other keys"),
        ({"last": {"a": [torch.ones(2)]}}, r"last.pt\['a'\] has another length"),
    ],
    ids=["history", "best", "bits", "dtype", "value", "key", "length"],
)
def test_runs_that_differ_are_told_apart(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=says):
        assert_same_runs(write_run(tmp_path / "a"), write_run(tmp_path / "b", **change))


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


PRESETS = {"tiny": {}}


def build(preset: str, broken: str = "") -> nn.Module:
    """A network (or one that fails the proof `broken`) beside PRESETS, as in a model.py."""
    model = Scaled(lambda result, scale: result * (scale.detach() if broken == "gradients" else scale))
    if broken == "independence":
        model.use = lambda result, scale: result * scale + result.mean()
    if broken == "overfits":
        model.use = lambda result, scale: 1e-9 * result * scale
    return nn.Sequential(model) if broken == "presets" else model


def main(config: TrainConfig, data: Splits) -> None:
    raise AssertionError("the run was asked for")


@pytest.mark.parametrize(
    ("name", "broken", "says"),
    [
        ("gradients_reach_every_parameter", "gradients", "scale gets no gradient"),
        ("batch_independence", "independence", "output of example 0 alone"),
        ("overfits_one_batch", "overfits", "the loss on one batch is still"),
        ("resumes_exactly", "", "the run was asked for"),
        ("presets_build", "presets", "layers of preset tiny without a name: 0"),
    ],
)
def test_each_standard_check_is_an_item_that_fails_for_a_model_broken_its_way(
    tmp_path: Path, name: str, broken: str, says: str
) -> None:
    def make(preset: str) -> nn.Module:
        return build(preset, broken)

    test = standard_checks(make, main, TrainConfig("unused", ""), small_batch, overfit=[Overfit(lr=0.1, below=0.5)])
    items = {item.id: item.values for item in test.pytestmark[-1].args[1]}
    assert len(items) == 5
    for own in items:
        if own == name:
            with pytest.raises(AssertionError, match=says):
                test(*items[own], tmp_path)
        elif own != "resumes_exactly":
            test(*items[own], tmp_path)


def test_variants_are_items_of_their_own_and_a_check_is_off_only_with_a_reason() -> None:
    skip = {"batch_independence": "a batch is one example"}
    variants = [{}, {"broken": "overfits"}]
    test = standard_checks(build, main, TrainConfig("unused", ""), small_batch, variants=variants, skip=skip)
    items = {item.id: [mark.kwargs["reason"] for mark in item.marks] for item in test.pytestmark[-1].args[1]}
    assert items == {
        **{f"gradients_reach_every_parameter-{i}": [] for i in (0, 1)},
        **{f"batch_independence-{i}": ["a batch is one example"] for i in (0, 1)},
        **{"overfits_one_batch": [], "resumes_exactly": [], "presets_build": []},
    }
    for wrong in ({"batch_independence": " "}, {"batch_norm": "it has some"}):
        with pytest.raises(ValueError, match="it has a reason for each check that is off, of gradients_reach"):
            standard_checks(build, main, TrainConfig("unused", ""), small_batch, skip=wrong)


def test_layers_named_by_a_digit_are_found_but_for_repeated_blocks() -> None:
    named = nn.Sequential()
    named.add_module("conv1", nn.Conv2d(1, 1, 1))
    blocks = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    assert anonymous_layers(named) == anonymous_layers(nn.ModuleDict({"blocks": blocks})) == []
    assert anonymous_layers(nn.Sequential(nn.ReLU(), nn.ReLU())) == ["0", "1"]
