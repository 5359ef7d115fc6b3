"""Ten steps against torch's optimizers; Lion and LAMB, which torch lacks, against their papers' lines and timm's."""

import math
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch.from_scratch import optimizers
from dl.mytorch.from_scratch.optimizers.testing import after_ten_steps, assert_leaves_torch_s_weights

CASES: list[tuple[str, dict[str, Any]]] = [
    ("Adagrad", {}),
    ("Adagrad", {"lr_decay": 0.3, "weight_decay": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-3}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.8, "weight_decay": 0.1, "momentum": 0.9}),
    ("RMSprop", {"centered": True, "eps": 1e-3, "momentum": 0.5}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_ten_steps_leave_torch_s_weights(name: str, options: dict[str, Any]) -> None:
    assert_leaves_torch_s_weights(name, **options)


def two_steps(name: str, start: list[float], gradients: list[list[float]], **options: Any) -> list[float]:
    weight = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    moving = getattr(optimizers, name)([weight], **options)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float64)
        moving.step()
    return weight.tolist()


def test_lion_moves_by_the_sign_of_a_mean_as_worked_by_hand() -> None:
    # First: m = 0, so the sign of g: 1 - 0.1 (1 + 0.5 * 1) = 0.85; m = 0.01 * 2 = 0.02.
    # Then: sign(0.9 * 0.02 - 0.1 * 0.1) = sign(0.008) = 1, against the gradient: 0.85 - 0.1 (1 + 0.5 * 0.85) = 0.7075.
    assert two_steps("Lion", [1.0], [[2.0], [-0.1]], lr=0.1, weight_decay=0.5) == pytest.approx([0.7075], abs=1e-12)


def test_lamb_moves_a_layer_by_a_share_of_its_length_as_worked_by_hand() -> None:
    # Bias-corrected, the first direction is g / |g|: (1, -1). r = (1, -1) + 0.5 (3, 4) = (2.5, 1), its length sqrt(7.25).
    ratio = 5 / math.sqrt(7.25)
    expected = [3 - 0.1 * ratio * 2.5, 4 - 0.1 * ratio * 1]
    assert two_steps("LAMB", [3.0, 4.0], [[2.0, -7.0]], lr=0.1, weight_decay=0.5, eps=0.0) == pytest.approx(expected, abs=1e-12)


def test_lamb_moves_what_is_all_zero_by_the_plain_step() -> None:
    assert two_steps("LAMB", [0.0, 0.0], [[2.0, -7.0]], lr=0.1, eps=0.0) == pytest.approx([-0.1, 0.1], abs=1e-12)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "theirs", "options"),
    [
        ("Lion", "Lion", {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}),
        ("LAMB", "Lamb", {"lr": 0.01, "betas": (0.8, 0.9), "weight_decay": 0.1}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_ten_steps_leave_timm_s_weights(name: str, theirs: str, options: dict[str, Any], torchvision: ModuleType) -> None:
    twin = getattr(pytest.importorskip("timm.optim"), theirs)
    own = after_ten_steps(getattr(optimizers, name), **options)
    expected = after_ten_steps(twin, **options, **({"max_grad_norm": None} if theirs == "Lamb" else {}))
    for weight, other in zip(own, expected):
        torch.testing.assert_close(weight, other, rtol=0, atol=1e-10)
