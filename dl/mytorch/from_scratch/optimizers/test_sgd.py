"""SGD against torch's, and what all optimizers share: groups, closures, states."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.checkpoint import load, save
from dl.mytorch.from_scratch import optimizers
from dl.mytorch.from_scratch.optimizers.testing import assert_leaves_torch_s_weights
from dl.mytorch.optim import decay_groups


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lr": 0.1, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ],
    ids=str,
)
def test_ten_steps_leave_torch_s_weights(options: dict[str, Any]) -> None:
    assert_leaves_torch_s_weights("SGD", **options)


def test_one_step_is_the_formula() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))
    weight.grad = torch.tensor([3.0])
    optimizers.SGD([weight], lr=0.5, weight_decay=0.1).step()
    assert weight.item() == pytest.approx(2 - 0.5 * (3 + 0.1 * 2))


def test_groups_have_options_of_their_own_and_what_has_no_gradient_stays() -> None:
    model = nn.Linear(3, 2)
    frozen = nn.Parameter(torch.ones(2))
    groups = [*decay_groups(model, 0.1), {"params": [frozen]}]
    moving = optimizers.AdamW(groups, lr=0.0, weight_decay=0.0)
    before = model.weight.detach().clone()
    moving.param_groups[0]["lr"] = 1.0
    model(torch.zeros(1, 3)).sum().backward()  # the gradient of the matrix is 0: decay alone moves it
    moving.step()
    torch.testing.assert_close(model.weight, 0.9 * before)
    assert frozen.tolist() == [1, 1] and frozen not in moving.state


def test_a_closure_is_called_with_gradients() -> None:
    weight = nn.Parameter(torch.tensor([2.0]))

    def closure() -> Tensor:
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizers.SGD([weight], lr=0.1).step(closure) == 4
    assert weight.item() == pytest.approx(2 - 0.1 * 4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SGD", {"lr": -1.0}),
        ("SGD", {"momentum": -0.9}),
        ("SGD", {"nesterov": True}),
        ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
        ("Adagrad", {"weight_decay": -0.1}),
        ("RMSprop", {"eps": -1e-8}),
        ("Adam", {"betas": (0.9, 1.0)}),
        ("Muon", {"adjust_lr_fn": "match_rms"}),
    ],
    ids=str,
)
def test_options_that_torch_refuses_are_refused(name: str, options: dict[str, Any]) -> None:
    for module in (optimizers, torch.optim):
        with pytest.raises(ValueError):
            getattr(module, name)([nn.Parameter(torch.zeros(2, 2))], **options)


@pytest.mark.parametrize("name", optimizers.__all__)
def test_a_sparse_gradient_is_refused(name: str) -> None:
    embedding = nn.Embedding(3, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=True"):
        getattr(optimizers, name)(embedding.parameters(), lr=0.1).step()


@pytest.mark.parametrize("name", optimizers.__all__)
def test_a_saved_state_goes_on_with_the_same_bits(name: str, tmp_path: Any) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    weights = []
    for broken in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(4, 3, bias=False)
        moving = getattr(optimizers, name)(model.parameters(), lr=0.1, **options)
        for step in range(4):
            if broken and step == 2:
                save(moving.state_dict(), tmp_path / "state.pt")
                moving = getattr(optimizers, name)(model.parameters(), lr=0.1, **options)
                moving.load_state_dict(load(tmp_path / "state.pt"))
            moving.zero_grad()
            model(torch.ones(2, 4)).square().sum().backward()
            moving.step()
        weights.append(model.weight.detach())
    assert torch.equal(*weights)
