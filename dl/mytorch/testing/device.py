"""A device without float64 (MPS), simulated on the CPU, for tests of everything that computes in float64."""

import contextlib
from typing import Any, Iterator
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dl.mytorch import float64

TYPE = "meta"  # a type of device that exists everywhere; its tensors have numbers here


class SimulatedTensor(Tensor):
    """A tensor that says it is on the simulated device; its numbers are in `own`, on the CPU."""

    own: Tensor

    @staticmethod
    def __new__(cls, own: Tensor) -> "SimulatedTensor":
        made = Tensor._make_wrapper_subclass(cls, own.shape, strides=own.stride(), dtype=own.dtype, device=TYPE)
        made.own = own
        return made

    def tolist(self) -> list:
        return self.own.tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(function, args, kwargs or {})


SimulatedTensor.__torch_function__ = torch._C._disabled_torch_function_impl  # dispatch alone is simulated


class SimulatedDevice(TorchDispatchMode):
    """Tensors made on the device "meta" are simulated ones, while this is active."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # which would import torch._dynamo: four seconds

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(function, args, kwargs or {})


def compute(function: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU; as MPS does, refuse float64, and tensors of several devices."""
    name, device = function.overloadpacket.__name__, kwargs.get("device")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    simulated = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
    moves = name in ("copy_", "_to_copy", "index", "index_put_", "_index_put_impl_")
    if simulated and not moves and any(tensor.ndim and not isinstance(tensor, SimulatedTensor) for tensor in tensors):
        raise RuntimeError(f"{name}: tensors are on the CPU and on the device")
    here = bool(simulated) if device is None else torch.device(device).type == TYPE
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = function(*tree_map(_own, args), **tree_map(_own, kwargs))
    known = {id(tensor.own): tensor for tensor in simulated}  # an operation in place returns its tensor

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or not here:
            return value
        if value.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"{name}: the device has no float64")
        return known.get(id(value)) or SimulatedTensor(value)

    return tree_map(wrapped, result)


def _own(value: Any) -> Any:
    return value.own if isinstance(value, SimulatedTensor) else value


@contextlib.contextmanager
def device_without_float64() -> Iterator[torch.device]:
    """Yield the simulated device. Tensors come there by `.to(device)` or `device=`."""
    with mock.patch.object(float64, "WITHOUT_FLOAT64", {TYPE}), SimulatedDevice():
        yield torch.device(TYPE)
