"""Tests of names.py: weights and moments find their parameters by name, whatever order and names these have today."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch import names
from dl.mytorch.config import UserError
from dl.mytorch.names import by_name, by_position, renamed, substituted


class Layers(nn.Module):
    """Linear layers of equal shape, defined in this order."""

    def __init__(self, *order: str) -> None:
        super().__init__()
        for name in order:
            self.add_module(name, nn.Linear(2, 2))


class Renamed(Layers):
    RENAMED = ((r"^old\.", "a."), (r"^(b|c)\d\.", r"\1."))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights decay, biases do not: so parameters are in two groups, in the order of the model in each."""
    named = list(model.named_parameters())
    return [
        {"params": [p for name, p in named if name.endswith(kind)], "lr": lr} for kind, lr in (("weight", 0.1), ("bias", 0.2))
    ]


def trained(model: nn.Module) -> torch.optim.Optimizer:
    """An Adam of `model` whose moments differ from parameter to parameter."""
    optimizer = torch.optim.Adam(groups(model))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


def moments(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    return {name: optimizer.state[parameter]["exp_avg"] for name, parameter in model.named_parameters()}


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_moments_follow_two_layers_of_equal_shape_that_change_places() -> None:
    before, after = Layers("a", "b", "c"), Layers("c", "a", "b")
    saved = by_name(trained(before), before)
    assert saved["param_groups"][0]["params"] == ["a.weight", "b.weight", "c.weight"]
    optimizer = torch.optim.Adam(groups(after))
    optimizer.load_state_dict(by_position(saved, optimizer, after, (), "it"))
    assert_equal(moments(optimizer, after), {name: saved["state"][name]["exp_avg"] for name, _ in after.named_parameters()})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize("version", ["0.1", "named"])
def test_weights_and_moments_of_earlier_names_and_order_are_found(version: str) -> None:
    before, after = Layers("old", "b1", "c1"), Renamed("c", "a", "b")
    first = trained(before)
    saved = first.state_dict() if version == "0.1" else by_name(first, before)
    order = list(renamed(after, before.state_dict()))
    assert order == [f"{layer}.{kind}" for layer in "abc" for kind in ("weight", "bias")]
    optimizer = torch.optim.Adam(groups(after))
    optimizer.load_state_dict(by_position(saved, optimizer, after, order, "it"))
    assert_equal(moments(optimizer, after), renamed(after, moments(first, before)))


def test_the_table_of_a_network_counts_inside_of_others_too() -> None:
    assert list(renamed(nn.ModuleDict({"net": Renamed("a")}), {"net.old.weight": 1, "old.weight": 2})) == [
        "net.a.weight",
        "old.weight",
    ]


def test_moments_of_other_parameters_are_refused() -> None:
    model = Layers("a", "b")
    optimizer = trained(model)
    saved = by_name(optimizer, model)
    fewer = {**saved, "param_groups": [{**group, "params": group["params"][:1]} for group in saved["param_groups"]]}
    for wrong, order in (
        (fewer, ()),
        ({**saved, "state": {"x": {}}}, ()),
        ({**saved, "param_groups": [{}, {}]}, ()),
        ({**saved, "param_groups": saved["param_groups"][:1]}, ()),
        (optimizer.state_dict(), ("a.weight",)),
        ({**optimizer.state_dict(), "state": {9: {}}}, list(model.state_dict())),
    ):
        with pytest.raises(UserError, match="^it"):
            by_position(wrong, optimizer, model, order, "it")


def test_names_that_are_no_text_stay() -> None:
    assert names.renamed(Renamed("a"), {1: 2}) == {1: 2}  # what reads the weights refuses them


def test_substitutions_follow_each_other() -> None:
    assert substituted("layer1.conv", [(r"^layer(\d)", r"blocks.\1"), (r"^blocks\.1", "first")]) == "first.conv"
