from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch.from_scratch import optimizers
from dl.mytorch.from_scratch.optimizers.muon import orthogonalized
from dl.mytorch.from_scratch.optimizers.testing import assert_leaves_torch_s_weights

COEFFICIENTS = (3.4445, -4.775, 2.0315)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.02},
        {"lr": 0.02, "nesterov": False, "momentum": 0.8, "weight_decay": 0.3},
        {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
    ],
    ids=str,
)
def test_ten_steps_leave_torch_s_weights(options: dict[str, Any]) -> None:
    assert_leaves_torch_s_weights("Muon", **options)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_a_step_is_nearly_orthogonal_with_the_singular_vectors_of_the_gradient(shape: tuple[int, int]) -> None:
    u, s, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    gradient = u @ torch.diag(s.clamp_min(0.3)) @ v
    step = orthogonalized(gradient, COEFFICIENTS, 5, 1e-7).float()
    inside = u.T @ step @ v.T  # diagonal where the vectors are the same
    assert inside.diagonal().min() > 0.6 and inside.diagonal().max() < 1.3
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 0.05


def test_a_kernel_is_moved_as_the_matrix_of_its_rows() -> None:
    weights = []
    for shape in ((6, 2, 3, 1), (6, 6)):
        weight = nn.Parameter(torch.arange(36.0).view(shape))
        weight.grad = torch.randn(36, generator=torch.Generator().manual_seed(0)).view(shape)
        optimizers.Muon([weight], lr=0.1).step()
        weights.append(weight.detach().flatten())
    assert torch.equal(*weights)


def test_a_vector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        optimizers.Muon(nn.Linear(2, 3).parameters())
