"""Tensors that ranks share, each with a part: torch's DTensor. What is no such tensor passes through."""

from typing import Any

import torch
from torch import Tensor


def local(x: Tensor) -> Tensor:
    """Return what this rank holds of `x`, in the same memory."""
    return x.to_local() if hasattr(x, "to_local") else x


def offset(x: Tensor) -> tuple[int, ...]:
    """Return where what this rank holds of `x` begins in the whole."""
    if not hasattr(x, "placements"):
        return (0,) * x.ndim
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset  # takes a second

    return tuple(compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)[1])


def full_state_dict(state: Any, gather: bool = True) -> Any:
    """Return `state`, a tensor or dicts and lists of them, with each sharded tensor whole on the CPU. All ranks call it.

    Tensors are gathered one at a time; if `gather` is False, each is freed at once and replaced by None.
    """
    if isinstance(state, dict):
        return {name: full_state_dict(value, gather) for name, value in state.items()}
    if isinstance(state, list):
        return [full_state_dict(value, gather) for value in state]
    if not hasattr(state, "full_tensor"):
        return state
    full = state.full_tensor()
    return full.cpu() if gather else None


def distribute_like(own: Tensor, value: Any) -> Any:
    """Return `value` sharded as `own` is, if `own` is sharded and `value`, on all ranks, has its shape."""
    if not hasattr(own, "placements") or getattr(value, "shape", None) != own.shape:
        return value
    from torch.distributed.tensor import DTensor

    places = tuple(slice(first, first + size) for first, size in zip(offset(own), local(own).shape))
    part = value[places].clone(memory_format=torch.contiguous_format).to(own.device)
    options = {"shape": own.shape, "stride": own.stride(), "run_check": False}
    return DTensor.from_local(part, own.device_mesh, own.placements, **options)
