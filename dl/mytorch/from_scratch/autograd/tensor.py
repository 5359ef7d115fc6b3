"""A tensor that remembers how it was made, and from that finds gradients.

An operation y = f(a, b) gives a `Tensor` with three things: its value, its parents (a, b), and how to pull a gradient
back, a function from dL/dy to dL/da and dL/db. `backward` begins with dL/dL = 1 and pulls through every operation once, the
last one first, adding up where a tensor was used several times: the chain rule.
"""

import itertools
from typing import Callable, Sequence, Union

import numpy as np

Pull = Callable[[np.ndarray], Sequence[np.ndarray]]  # dL/d output -> dL/d input, for every input
Number = Union["Tensor", np.ndarray, float]
Axes = int | tuple[int, ...] | None

_count = itertools.count()


class Tensor:
    """An array that records its operations if `requires_grad` is set or if any parent requires a gradient.

    After `backward` of what was made from it, `grad` of a tensor that nothing was the parent of has its gradient, added
    to what was there before. A plain number or array in an operation takes the type of the tensor, if that has fractions.
    """

    __array_ufunc__ = None  # array * tensor is left to `__rmul__`: NumPy would multiply by each of its numbers

    def __init__(
        self, data: np.ndarray | float, requires_grad: bool = False, parents: Sequence["Tensor"] = (), pull: Pull | None = None
    ) -> None:
        self.data = np.asarray(data)
        self.requires_grad = requires_grad or any(parent.requires_grad for parent in parents)
        self.parents, self.pull = (tuple(parents), pull) if self.requires_grad else ((), None)
        self.grad: np.ndarray | None = None
        self.number = next(_count)  # parents are made before what is made from them: of them it is smaller

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    def backward(self, gradient: np.ndarray | None = None) -> None:
        """Pull `gradient`, by default 1, back to all tensors that this one was made from."""
        gradients = {self: np.ones_like(self.data) if gradient is None else gradient}
        for tensor in self._made_from():
            gradient = gradients.pop(tensor)  # complete: all that was made from this tensor came before
            if tensor.pull is None:
                tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient
                continue
            for parent, part in zip(tensor.parents, tensor.pull(gradient)):
                if parent.requires_grad:
                    part = _unbroadcast(part, parent.shape)
                    gradients[parent] = gradients[parent] + part if parent in gradients else part

    def _made_from(self) -> list["Tensor"]:
        """Return this tensor and all that it depends on that require a gradient, the last one made first."""
        found, todo = {self}, [self]
        while todo:
            new = {parent for parent in todo.pop().parents if parent.requires_grad} - found
            found |= new
            todo += new
        return sorted(found, key=lambda tensor: -tensor.number)

    # ---- arithmetic ------------------------------------------------------------------------------------------------

    def _other(self, other: Number) -> "Tensor":
        if isinstance(other, Tensor):
            return other
        return Tensor(np.asarray(other, dtype=self.data.dtype if self.data.dtype.kind == "f" else None))

    def __add__(self, other: Number) -> "Tensor":
        other = self._other(other)
        return Tensor(self.data + other.data, parents=(self, other), pull=lambda g: (g, g))

    def __mul__(self, other: Number) -> "Tensor":
        other = self._other(other)
        return Tensor(self.data * other.data, parents=(self, other), pull=lambda g: (g * other.data, g * self.data))

    def __pow__(self, power: float) -> "Tensor":
        def pull(g: np.ndarray) -> Sequence[np.ndarray]:
            return (g * power * self.data ** (power - 1) if power else np.zeros_like(g),)  # 0 * 0^-1 would be NaN

        return Tensor(self.data**power, parents=(self,), pull=pull)

    def __neg__(self) -> "Tensor":
        return self * -1

    def __sub__(self, other: Number) -> "Tensor":
        return self + -self._other(other)

    def __rsub__(self, other: Number) -> "Tensor":
        return -self + other

    def __truediv__(self, other: Number) -> "Tensor":
        return self * self._other(other) ** -1.0

    def __rtruediv__(self, other: Number) -> "Tensor":
        return self**-1.0 * other

    __radd__, __rmul__ = __add__, __mul__

    def __matmul__(self, other: Number) -> "Tensor":
        """Multiply matrices: (..., n, k) @ (..., k, m) -> (..., n, m)."""
        other = self._other(other)

        def pull(g: np.ndarray) -> Sequence[np.ndarray]:
            return g @ other.data.swapaxes(-1, -2), self.data.swapaxes(-1, -2) @ g

        return Tensor(self.data @ other.data, parents=(self, other), pull=pull)

    def __rmatmul__(self, other: Number) -> "Tensor":
        return self._other(other) @ self

    # ---- functions of each number ----------------------------------------------------------------------------------

    def exp(self) -> "Tensor":
        value = np.exp(self.data)
        return Tensor(value, parents=(self,), pull=lambda g: (g * value,))

    def log(self) -> "Tensor":
        return Tensor(np.log(self.data), parents=(self,), pull=lambda g: (g / self.data,))

    def tanh(self) -> "Tensor":
        value = np.tanh(self.data)
        return Tensor(value, parents=(self,), pull=lambda g: (g * (1 - value**2),))

    def sigmoid(self) -> "Tensor":
        return ((self * 0.5).tanh() + 1.0) * 0.5

    def relu(self) -> "Tensor":
        return Tensor(np.maximum(self.data, 0), parents=(self,), pull=lambda g: (g * (self.data > 0),))

    # ---- over axes -------------------------------------------------------------------------------------------------

    def sum(self, axis: Axes = None, keepdims: bool = False) -> "Tensor":
        def pull(g: np.ndarray) -> Sequence[np.ndarray]:
            g = g if keepdims or axis is None else np.expand_dims(g, axis)
            return (np.broadcast_to(g, self.shape),)

        return Tensor(self.data.sum(axis, keepdims=keepdims), parents=(self,), pull=pull)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> "Tensor":
        total = self.sum(axis, keepdims)
        return total * (total.data.size / self.data.size)

    def max(self, axis: int) -> "Tensor":
        """Return the largest along an axis, which goes. Of several that are largest, the first gets the gradient."""
        place = np.expand_dims(self.data.argmax(axis), axis)

        def pull(g: np.ndarray) -> Sequence[np.ndarray]:
            spread = np.zeros_like(self.data)
            np.put_along_axis(spread, place, np.expand_dims(g, axis), axis)
            return (spread,)

        return Tensor(np.take_along_axis(self.data, place, axis).squeeze(axis), parents=(self,), pull=pull)

    # ---- the same numbers in other places --------------------------------------------------------------------------

    def reshape(self, *shape: int) -> "Tensor":
        return Tensor(self.data.reshape(shape), parents=(self,), pull=lambda g: (g.reshape(self.shape),))

    def transpose(self, *axes: int) -> "Tensor":
        """Return the axes in this order."""
        back = np.argsort([axis % self.data.ndim for axis in axes])  # -1 is the last
        return Tensor(self.data.transpose(axes), parents=(self,), pull=lambda g: (g.transpose(back),))

    def pad(self, *widths: tuple[int, int]) -> "Tensor":
        """Pad each axis with (before, after) zeros."""
        inside = tuple(slice(before, before + side) for (before, _), side in zip(widths, self.shape))
        return Tensor(np.pad(self.data, widths), parents=(self,), pull=lambda g: (g[inside],))

    def __getitem__(self, index: object) -> "Tensor":
        """Return what NumPy's index gives; a place that is asked for twice gets the gradient of both."""

        def pull(g: np.ndarray) -> Sequence[np.ndarray]:
            spread = np.zeros_like(self.data)
            np.add.at(spread, index, g)
            return (spread,)

        return Tensor(self.data[index], parents=(self,), pull=pull)


def _unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of what was broadcast from `shape`: each number was used several times, so the sum over its copies."""
    gradient = gradient.sum(tuple(range(gradient.ndim - len(shape))))  # axes that were put in front
    stretched = tuple(axis for axis, side in enumerate(shape) if side == 1 and gradient.shape[axis] != 1)
    return gradient.sum(stretched, keepdims=True)
