"""Pooling against torch's, over a grid of its arguments, ties and empty batches included."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dl.mytorch.from_scratch import layers
from dl.mytorch.from_scratch.layers import pooling
from dl.mytorch.testing import assert_same_function

WINDOWS = [(2, None, 0), (3, 2, 1), ((3, 2), (1, 3), (1, 0)), (2, 3, 1), (3, 3, 1)]
SIDES = [(7, 8), (6, 5), (4, 4)]


@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_largest_numbers_are_torch_s(size: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
    for sides, dilation in itertools.product(SIDES, (1, (1, 2))):
        own, twin = (module.MaxPool2d(size, stride, padding, dilation, True, ceil_mode) for module in (layers, nn))
        x = torch.randn(2, 3, *sides)
        assert torch.equal(own(x)[1], twin(x)[1])
        for images in (x, x.round()):  # of equal numbers the first has the gradient
            assert_same_function(own, twin, images)


@pytest.mark.parametrize(("size", "stride", "padding"), WINDOWS)
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_means_are_torch_s(size: Any, stride: Any, padding: Any, ceil_mode: bool) -> None:
    for sides, counted, divisor in itertools.product(SIDES, (True, False), (None, 3)):
        arguments = (size, stride, padding, ceil_mode, counted, divisor)
        assert_same_function(layers.AvgPool2d(*arguments), nn.AvgPool2d(*arguments), torch.randn(2, 3, *sides))


@pytest.mark.parametrize("size", [1, 3, (2, 5), (None, 2), (7, None), 9])
def test_adaptive_means_are_torch_s(size: Any) -> None:
    for sides in SIDES:
        assert_same_function(layers.AdaptiveAvgPool2d(size), nn.AdaptiveAvgPool2d(size), torch.randn(2, 3, *sides))


@pytest.mark.parametrize("layer", ["MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d"])
def test_an_empty_batch_gives_an_empty_batch(layer: str) -> None:
    assert_same_function(getattr(layers, layer)(2), getattr(nn, layer)(2), torch.randn(0, 3, 4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_number_types_give_torch_s_output_within_their_precision(dtype: torch.dtype) -> None:
    x, tolerance = torch.randn(2, 3, 6, 6, dtype=dtype), {"rtol": 0, "atol": 4 * torch.finfo(dtype).eps}
    assert torch.equal(pooling.max_pool2d(x, 3), F.max_pool2d(x, 3))
    torch.testing.assert_close(pooling.avg_pool2d(x, 3, 1, 1), F.avg_pool2d(x, 3, 1, 1), **tolerance)
    torch.testing.assert_close(pooling.adaptive_avg_pool2d(x, 4), F.adaptive_avg_pool2d(x, 4), **tolerance)


def test_gradients_equal_finite_differences() -> None:
    x = torch.randn(1, 2, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pooling.max_pool2d(x, 2, 1), x)
    assert torch.autograd.gradcheck(lambda x: pooling.avg_pool2d(x, 2, 1, 1), x)
    assert torch.autograd.gradcheck(lambda x: pooling.adaptive_avg_pool2d(x, 3), x)
