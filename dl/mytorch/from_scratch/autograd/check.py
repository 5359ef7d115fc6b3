"""Gradients against finite differences."""

from typing import Callable

import numpy as np

from dl.mytorch.from_scratch.autograd.tensor import Tensor


def assert_gradients_right(
    function: Callable[..., Tensor], *arrays: np.ndarray, step: float = 1e-6, tolerance: float = 1e-7
) -> None:
    """`backward` of a random sum of the output gives (f(x + step) - f(x - step)) / (2 step), for every number of `arrays`.

    The arrays have to be float64. Raises `AssertionError` that names the input and the number.
    """
    inputs = [Tensor(array.copy(), requires_grad=True) for array in arrays]
    output = function(*inputs)
    weights = np.random.default_rng(0).normal(size=output.shape)
    output.backward(weights)
    for which, tensor in enumerate(inputs):
        for place in np.ndindex(tensor.shape):
            there, sums = tensor.data[place], []
            for moved in (there + step, there - step):
                tensor.data[place] = moved
                sums.append((function(*inputs).data * weights).sum())
            tensor.data[place] = there
            expected = (sums[0] - sums[1]) / (2 * step)
            found = 0.0 if tensor.grad is None else tensor.grad[place]
            if not abs(found - expected) <= tolerance * max(1.0, abs(expected)):
                raise AssertionError(f"input {which} at {place}: gradient {found:.9g}, by differences {expected:.9g}")
