"""Weights and states from a file are checked before anything of them is used."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch.checkpoint import put_weights
from dl.mytorch.config import UserError
from dl.mytorch.state import check_optimizer, check_state, problem_of_weight

ONES = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (ONES.int(), "of type int32, the model's is float32"),
        (ONES.bool(), "of type bool"),
        (ONES.cfloat(), "of type complex64"),
        (ONES.double(), "of type float64"),  # would be rounded
        (ONES.to(torch.float8_e5m2), "of type float8_e5m2"),
        (ONES * math.nan, "not finite"),
        (ONES.index_fill(0, torch.tensor(1), math.inf), "not finite"),
        (torch.ones(1, 1).expand(2, 3), "fewer numbers than its shape says"),
        (ONES.to_sparse(), "not a plain tensor"),
        (torch.empty(2, 3, device="meta"), "not a plain tensor"),
        (ONES.T, r"of shape \(3, 2\)"),
        ("ones", "of shape"),
    ],
)
def test_weights_that_would_be_changed_or_are_none_are_refused_by_name(weight: Any, says: str) -> None:
    with pytest.raises(UserError, match=rf"a.pt belongs to another model than this Linear: it has weight .*{says}"):
        put_weights(nn.Linear(3, 2), {"weight": weight, "bias": torch.zeros(2)}, "a.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_of_fewer_bits_are_taken_exactly(dtype: torch.dtype) -> None:
    weight = torch.randn(2, 3).to(dtype)
    for model in (nn.Linear(3, 2), nn.Linear(3, 2).double()):
        put_weights(model, {"weight": weight, "bias": torch.zeros(2, dtype=dtype)}, "a.pt")
        assert (
            torch.equal(model.weight, weight.to(model.weight.dtype)) and model.weight.dtype == model.bias.dtype != torch.float16
        )


def test_a_part_of_a_larger_tensor_and_integers_of_the_model_are_taken() -> None:
    assert problem_of_weight(torch.ones(5, 3)[1:3].T, torch.ones(3, 2)) == ""
    assert problem_of_weight(torch.tensor(3), torch.tensor(0)) == ""
    assert problem_of_weight(torch.ones(0, 3), torch.ones(0, 3)) == ""


STATE = {
    **{"position": (3, 1, 1), "length": (2, 6), "logged": (0.5, 3.0), "history": [], "train_sums": {}, "task": {}},
    **{"rng": [{"python": (3, (1,), None), "numpy": [], "torch": torch.zeros(4, dtype=torch.uint8)}]},
    **{"model": {"weight": ONES}, "ema": None, "optimizers": [{"state": {}, "param_groups": [{"lr": 0.1}]}]},
}


def test_a_state_as_it_is_saved_passes() -> None:
    assert check_state(STATE, "last.pt") is STATE
    check_state(
        {name: value for name, value in STATE.items() if name not in ("model", "ema")} | {"shards": "shards-3"}, "last.pt"
    )


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("position", (1, 2), "position has to be 3 numbers"),
        ("position", (1.0, 0, 1), r"position\[0\] has to be a whole number"),
        ("position", (2**70, 0, 1), r"position\[0\] has to be a whole number"),
        ("position", (-1, 0, 1), "position and length have to be 0 or more"),
        ("position", "abc", "position has to be a list"),
        ("length", {}, "length has to be a list"),
        ("logged", (math.nan, 1.0), r"logged\[0\] has to be a finite number"),
        ("history", [[]], r"history\[0\] has to be an object"),
        ("train_sums", {"loss": 1.0}, "train_sums.loss has to be Tensor"),
        ("train_sums", {"loss": torch.ones(1).expand(10**12)}, "train_sums.loss has fewer numbers"),
        ("task", None, "task has to be an object"),
        ("rng", [{}], r"lacks the field rng\[0\].python"),
        ("rng", 5, "rng has to be a list"),
        ("model", [ONES], "model has to be an object"),
        ("model", {"weight": "ones"}, "model.weight has to be Tensor"),
        ("optimizers", [{"state": {0: {"step": "3"}}, "param_groups": []}], "step has to be"),
        ("optimizers", [3], r"optimizers\[0\] has to be an object"),
        ("rng", [], "lacks the state of the generators"),
        ("rng", [STATE["rng"][0] | {"python": (3, (1,), "x")}], r"rng\[0\].python\[2\]"),
        ("shards", "shards-3", "either a model or the name of its shards"),
    ],
)
def test_a_state_with_anything_else_in_it_is_a_line_that_names_it(name: str, value: Any, says: str) -> None:
    with pytest.raises(UserError, match=says) as refused:
        check_state(STATE | {name: value}, "last.pt")
    assert "last.pt" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 400
    for value in (None, [], {}, STATE["model"]):
        with pytest.raises(UserError, match="last.pt"):
            check_state(value, "last.pt")


def trained() -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer, optimizer.state_dict()


def test_the_state_of_an_optimizer_passes_with_another_learning_rate() -> None:
    optimizer, saved = trained()
    saved["param_groups"][0] |= {"lr": 0.01, "fused": True, "foreach": 3}
    del saved["param_groups"][0]["eps"]
    taken = check_optimizer(saved, optimizer, "last.pt")["param_groups"]
    assert taken == [{**optimizer.state_dict()["param_groups"][0], "lr": 0.01}]


def wrong(state: dict[str, Any] | None = None, group: dict[str, Any] | None = None) -> tuple[torch.optim.Optimizer, dict]:
    optimizer, saved = trained()
    saved["state"][0] = saved["state"][0] | (state or {})
    saved["param_groups"][0] |= group or {}
    return optimizer, saved


@pytest.mark.parametrize(
    ("state", "group", "says"),
    [
        ({}, {"lr": "0.1"}, "lr has to be a finite number; got '0.1'"),
        ({}, {"lr": math.nan}, "lr has to be a finite number; got nan"),
        ({}, {"lr": True}, "lr has to be a finite number; got True"),
        ({}, {"betas": (0.9,)}, r"betas is \(0.9,\) there, \(0.9, 0.999\) in this run"),
        ({}, {"betas": 10**5000}, "betas is int there"),
        ({}, {"weight_decay": math.nan}, "weight_decay is nan there"),
        ({}, {"params": [0]}, r"params is \[0\] there"),
        ({"exp_avg": 3}, {}, "unlike states"),
        ({"step": torch.tensor(math.nan)}, {}, "step of parameter 0 is no finite number"),
        ({"exp_avg": torch.zeros(2, 3).int()}, {}, "exp_avg of parameter 0 has type int32"),
        ({"exp_avg": torch.zeros(3)}, {}, "exp_avg of parameter 0 has shape"),
        ({"exp_avg": torch.zeros(3, 2)}, {}, r"exp_avg of parameter 0 has shape \(3, 2\), the parameter has \(2, 3\)"),
        ({"exp_avg": torch.zeros(1, 2, 3)}, {}, "exp_avg of parameter 0 has shape"),
        ({"exp_avg": torch.full((2, 3), math.nan)}, {}, "exp_avg of parameter 0 has numbers that are NaN"),
        ({"exp_avg": torch.zeros(1).expand(2, 3)}, {}, "exp_avg of parameter 0 has fewer numbers"),
        ({"exp_avg": torch.zeros(2, 3).cfloat()}, {}, "exp_avg of parameter 0 has type complex64"),
        ({"more": torch.zeros(2, 3)}, {}, "unlike states"),
    ],
)
def test_another_state_of_an_optimizer_is_a_line_that_names_it(state: dict[str, Any], group: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"last.pt.*{says}") as refused:
        optimizer, saved = wrong(state, group)
        check_optimizer(saved, optimizer, "last.pt")
    assert len(str(refused.value)) < 300


def test_groups_and_states_of_parameters_that_are_not_there_are_a_line() -> None:
    optimizer, saved = trained()
    for other in (
        saved | {"param_groups": saved["param_groups"] * 2},
        saved | {"state": {5: saved["state"][0]}},
        saved | {"state": {"x": saved["state"][0]}},
    ):
        with pytest.raises(UserError, match="last.pt"):
            check_optimizer(other, optimizer, "last.pt")
