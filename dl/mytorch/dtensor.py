"""Tensors that ranks share, each with a part: torch's DTensor. What is no such tensor passes through."""

from typing import Any

from torch import Tensor


def local(x: Tensor) -> Tensor:
    """Return what this rank holds of `x`, in the same memory."""
    return x.to_local() if hasattr(x, "to_local") else x


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
    """Return `value` sharded as `own` is, if `own` is sharded and `value` has its shape. All ranks call it."""
    if not hasattr(own, "placements") or getattr(value, "shape", None) != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
