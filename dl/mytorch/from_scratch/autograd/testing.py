"""What the tests of the gradients by hand share."""

from typing import Any, Callable

import numpy as np
import torch

from dl.mytorch.from_scratch.autograd import Tensor, assert_gradients_right


def compare(own: Callable[..., Any], twin: Callable[..., Any], *arrays: np.ndarray) -> None:
    """Same values and gradients; and those that finite differences give."""
    tensors = [Tensor(array, requires_grad=True) for array in arrays]
    leaves = [torch.from_numpy(array).clone().requires_grad_() for array in arrays]
    output, expected = own(*tensors), twin(*leaves)
    weights = np.random.default_rng(1).normal(size=output.shape)
    output.backward(weights)
    expected.backward(torch.tensor(weights))
    np.testing.assert_allclose(output.data, expected.detach().numpy(), rtol=0, atol=1e-12)
    for tensor, leaf in zip(tensors, leaves):
        assert tensor.grad.shape == tensor.shape
        np.testing.assert_allclose(tensor.grad, leaf.grad.numpy(), rtol=0, atol=1e-10)
    assert_gradients_right(own, *arrays)


def normal(*shape: int) -> np.ndarray:
    """Return numbers of both signs, none near the kinks and poles at 0."""
    numbers = np.random.default_rng(len(shape) + sum(shape)).normal(size=shape)
    return numbers + 0.5 * np.sign(numbers)
