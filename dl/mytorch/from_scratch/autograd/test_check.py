import numpy as np
import pytest

from dl.mytorch.from_scratch.autograd import Tensor, assert_gradients_right


def test_a_right_gradient_passes() -> None:
    assert_gradients_right(lambda a, b: (a * b).exp(), np.array([0.5, -1.0]), np.array([2.0, 1.0]))


def test_a_wrong_gradient_is_named() -> None:
    def square(x: Tensor) -> Tensor:  # with a gradient that is right at 1 alone
        return Tensor(x.data**2, parents=(x,), pull=lambda g: (2 * g,))

    assert_gradients_right(square, np.array([1.0]))
    with pytest.raises(AssertionError, match=r"input 1 at \(1,\): gradient .*, by differences"):
        assert_gradients_right(lambda a, b: a + square(b), np.array([1.0, 1.0]), np.array([1.0, 3.0]))


def test_a_gradient_that_is_missing_is_found() -> None:
    with pytest.raises(AssertionError, match="gradient 0, by"):
        assert_gradients_right(lambda x: Tensor(x.data * 2), np.array([1.0]))
