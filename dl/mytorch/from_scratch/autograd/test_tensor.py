"""Every operation's value and gradient against torch's and against finite differences; and the order of the way back."""

from typing import Any, Callable

import numpy as np
import pytest
import torch

from dl.mytorch.from_scratch.autograd import Tensor
from dl.mytorch.from_scratch.autograd.testing import compare, normal

# name -> shapes of the inputs, and the operation, written the same for both
OPERATIONS: dict[str, tuple[list[tuple[int, ...]], Callable[..., Any]]] = {
    "add": ([(2, 3), (2, 3)], lambda a, b: a + b),
    "add, broadcast": ([(2, 1, 3), (4, 1)], lambda a, b: a + b),
    "add a number": ([(2, 3)], lambda a: 2 + a + 1.5),
    "subtract": ([(2, 3), (3,)], lambda a, b: a - b),
    "subtract from a number": ([(2, 3)], lambda a: 1.5 - a),
    "negate": ([(2, 3)], lambda a: -a),
    "multiply": ([(2, 3), (2, 3)], lambda a, b: a * b),
    "multiply, broadcast": ([(2, 3), (1, 3)], lambda a, b: a * b),
    "multiply by itself": ([(2, 3)], lambda a: a * a * a),
    "divide": ([(2, 3), (2, 1)], lambda a, b: a / b),
    "divide a number": ([(2, 3)], lambda a: 2 / a),
    "power": ([(2, 3)], lambda a: a**3.0),
    "matrix product": ([(2, 3), (3, 4)], lambda a, b: a @ b),
    "many matrix products": ([(5, 2, 3), (5, 3, 4)], lambda a, b: a @ b),
    "matrix product, broadcast": ([(5, 2, 3), (3, 4)], lambda a, b: a @ b),
    "exp": ([(2, 3)], lambda a: a.exp()),
    "log": ([(2, 3)], lambda a: (a * a).log()),
    "tanh": ([(2, 3)], lambda a: a.tanh()),
    "sigmoid": ([(2, 3)], lambda a: a.sigmoid()),
    "relu": ([(2, 3)], lambda a: a.relu()),
    "sum": ([(2, 3)], lambda a: a.sum()),
    "sum over an axis": ([(2, 3, 4)], lambda a: a.sum(1)),
    "sum over axes": ([(2, 3, 4)], lambda a: a.sum((0, -1), True)),
    "mean": ([(2, 3)], lambda a: a.mean()),
    "mean over axes": ([(2, 3, 4)], lambda a: a.mean((1, 2))),
    "reshape": ([(2, 6)], lambda a: a.reshape(3, -1)),
    "slice": ([(4, 6)], lambda a: a[1:3, ::2]),
    "places, one of them twice": ([(4, 6)], lambda a: a[[0, 0, 3], [1, 1, 2]]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_torch_s(name: str) -> None:
    shapes, operation = OPERATIONS[name]
    compare(operation, operation, *(normal(*shape) * (1 + i) for i, shape in enumerate(shapes)))


def test_operations_that_torch_writes_otherwise_equal_torch_s() -> None:
    compare(lambda a: a.transpose(2, 0, 1), lambda a: a.permute(2, 0, 1), normal(2, 3, 4))
    compare(lambda a: a.transpose(-1, 0, 1), lambda a: a.permute(-1, 0, 1), normal(2, 3, 4))
    compare(lambda a: a.max(1), lambda a: a.max(1).values, normal(2, 3, 4))
    compare(lambda a: a.pad((0, 0), (1, 2)), lambda a: torch.nn.functional.pad(a, (1, 2)), normal(2, 3))


def test_of_equal_numbers_the_first_has_the_gradient() -> None:
    x = Tensor(np.array([[1.0, 5.0, 5.0]]), requires_grad=True)
    x.max(1).backward()
    assert x.grad.tolist() == [[0, 1, 0]]


def test_a_tensor_that_is_used_in_two_ways_gets_both_gradients_before_it_passes_them_on() -> None:
    pulls = []

    def counted(x: Tensor) -> Tensor:
        return Tensor(x.data * 2, parents=(x,), pull=lambda g: (pulls.append(1), (2 * g,))[1])

    x = Tensor(3.0, requires_grad=True)
    y = counted(x)  # dy/dx = 2
    (y * y + y.exp() * 0.0 + y).backward()  # d/dy = 2 y + 1 = 13
    assert x.grad == 26 and len(pulls) == 1


def test_gradients_add_up_over_calls_and_constants_get_none() -> None:
    x, constant = Tensor(np.ones(2), requires_grad=True), Tensor(np.ones(2))
    for _ in range(2):
        (x * constant).sum().backward()
    assert x.grad.tolist() == [2, 2] and constant.grad is None
    assert (constant * constant).parents == ()  # what needs no gradient is not remembered


def test_a_chain_longer_than_the_stack_is_deep() -> None:
    x = Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(2000):
        y = y + x
    y.backward()
    assert x.grad == 2001


def test_the_power_0_has_no_gradient() -> None:
    compare(lambda a: a**0, lambda a: a**0, np.array([0.0, 2.0, -1.0]))


def test_arrays_stand_on_either_side() -> None:
    array = normal(3, 3)
    for operation in (
        lambda a, b: b + a,
        lambda a, b: b - a,
        lambda a, b: b * a,
        lambda a, b: b / a,
        lambda a, b: b @ a + a @ b,
        lambda a, b: b[0, 0] * a,  # a number of NumPy's
    ):
        compare(lambda a: operation(a, array), lambda a: operation(a, torch.from_numpy(array)), 2 * normal(3, 3))


def test_whole_numbers_have_fractions_of_them() -> None:
    x = Tensor(np.array([1, 2, 4]))
    assert x.mean().data == pytest.approx(7 / 3) and (x * 0.5).data.tolist() == [0.5, 1.0, 2.0]
    assert (-x).data.dtype == (x + 1).data.dtype == x.data.dtype


def test_numbers_take_the_type_of_the_tensor() -> None:
    x = Tensor(np.ones(3, dtype=np.float32), requires_grad=True)
    y = (1 - x * 2.0) / 3 + x.mean() + x.sigmoid()
    y.sum().backward()
    assert y.data.dtype == x.grad.dtype == np.float32
