"""Activations against torch's, where numbers are large, at the kinks, and where there are none."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dl.mytorch.from_scratch import layers
from dl.mytorch.from_scratch.layers import activations
from dl.mytorch.testing import assert_same_function

LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("ReLU", {}),
    ("ReLU6", {}),
    ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.3}),
    ("ELU", {}),
    ("ELU", {"alpha": 0.5}),
    ("SiLU", {}),
    ("GELU", {}),
    ("GELU", {"approximate": "tanh"}),
    ("Softplus", {}),
    ("Softplus", {"beta": 2.0, "threshold": 3.0}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("Softmax", {"dim": -1}),
    ("Softmax", {"dim": 1}),
    ("LogSoftmax", {"dim": 0}),
]
EXTREMES = torch.tensor([[-1e4, -800.0, -30.0, -1.0], [0.0, 6.0, 7.0, 800.0], [1e4, 1e-8, -1e-8, 20.0]])


@pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
def test_layers_equal_torch_s(name: str, options: dict[str, Any]) -> None:
    own, twin = (getattr(module, name)(**options) for module in (layers, nn))
    assert_same_function(own, twin, 3 * torch.randn(2, 3, 4))
    assert_same_function(own, twin, EXTREMES)
    if options.get("dim") != 0:  # along a dimension of length 0 there is no largest number
        assert_same_function(own, twin, torch.randn(0, 3))


@pytest.mark.parametrize("name", ["relu", "relu6", "leaky_relu", "elu", "silu", "gelu", "softplus", "sigmoid"])
def test_functions_equal_torch_s_keep_nan_and_their_gradients_are_those_of_finite_differences(name: str) -> None:
    own, twin = getattr(activations, name), getattr(F, name)
    x = torch.randn(20).double().requires_grad_()
    torch.testing.assert_close(own(x), twin(x), rtol=0, atol=1e-14)
    assert torch.autograd.gradcheck(own, x)
    assert own(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), LAYERS, ids=str)
def test_other_number_types_give_torch_s_output_within_their_precision(name: str, options: dict, dtype: torch.dtype) -> None:
    x = torch.randn(4, 5).to(dtype)
    own, twin = (getattr(module, name)(**options)(x) for module in (layers, nn))
    torch.testing.assert_close(own, twin, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["sigmoid", "silu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_sigmoid_keeps_its_digits_where_it_is_almost_0(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor([-1e4, -80.0, -20.0, -12.0, 0.0, 11.5, 20.0, 100.0, 1e4], dtype=dtype, requires_grad=True)
    own, twin = getattr(activations, name)(x), getattr(F, name)(x)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for result, expected in ((own, twin), *zip(*(torch.autograd.grad(y.sum(), x) for y in (own, twin)))):
        torch.testing.assert_close(result[:4], expected[:4], rtol=4 * eps, atol=tiny / 100)
        torch.testing.assert_close(result[4:], expected[4:], rtol=0, atol=4 * eps)


def test_softplus_does_not_overflow_in_half_precision() -> None:
    x = torch.cat([torch.linspace(-12, 12, 99), torch.tensor([15.0, 30.0])]).half().requires_grad_()
    own, twin = activations.softplus(x), F.softplus(x)
    torch.testing.assert_close(own, twin, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (own, twin)), rtol=0, atol=2e-3)


def test_an_unknown_gelu_is_refused() -> None:
    with pytest.raises(ValueError, match="'exact': there are"):
        activations.gelu(torch.zeros(1), approximate="exact")
