import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dl.mytorch.from_scratch import layers
from dl.mytorch.from_scratch.layers.linear import linear
from dl.mytorch.testing import assert_same_function


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5), (0, 5)])
def test_equals_torch_s(bias: bool, shape: tuple[int, ...]) -> None:
    assert_same_function(layers.Linear(5, 3, bias), nn.Linear(5, 3, bias), torch.randn(shape))
    assert_same_function(linear, F.linear, torch.randn(shape), torch.randn(3, 5), torch.randn(3) if bias else None)


def test_a_seed_gives_the_weights_of_torch_s() -> None:
    states = []
    for module in (layers, nn):
        torch.manual_seed(2)
        states.append(module.Linear(5, 3).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in ("weight", "bias"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_number_types_give_torch_s_output_within_their_precision(dtype: torch.dtype) -> None:
    x, weight, bias = (torch.randn(shape, dtype=dtype) for shape in ((4, 5), (3, 5), (3,)))
    torch.testing.assert_close(linear(x, weight, bias), F.linear(x, weight, bias), rtol=0, atol=8 * torch.finfo(dtype).eps)


def test_gradients_equal_finite_differences() -> None:
    inputs = [torch.randn(shape).double().requires_grad_() for shape in ((2, 3), (2, 3), (2,))]
    assert torch.autograd.gradcheck(linear, inputs)
