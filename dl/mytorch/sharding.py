"""Larger models: weights in shards on all ranks, activations that are computed twice instead of kept.

Shards are PyTorch's FSDP2, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html, after ZeRO's third stage
(Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054): of a parameter, then a DTensor, a rank holds some rows, and so
it does of the gradient and of the optimizer's state. Its modules are imported where they are needed: they take a second.
"""

import contextlib
import functools
from typing import Any, Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dl.mytorch.config import UserError


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of all lists of modules, those inside of others first."""
    lists = [module for module in reversed(list(model.modules())) if isinstance(module, nn.ModuleList)]
    return [block for members in lists for block in members]


def shard(model: nn.Module, device_type: str, ranks: int) -> nn.Module:
    """Shard `model` in place: each block on its own, gathered when its turn comes, and the rest as one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_type, (ranks,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def is_sharded(module: nn.Module) -> bool:
    """Whether `shard` has been there."""
    return hasattr(module, "unshard")


@contextlib.contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Inside, every rank has all weights, and passes may differ from rank to rank. All ranks enter it."""
    parts = [module for module in model.modules() if is_sharded(module)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)  # as fully_shard has it
            part.reshard()


def local(x: Tensor) -> Tensor:
    """What this rank holds of `x`, in the same memory."""
    return x.to_local() if hasattr(x, "to_local") else x


def whole(state: Any) -> Any:
    """`state`, a tensor or dicts and lists of them, with all shards put together. All ranks call it."""
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state.full_tensor() if hasattr(state, "full_tensor") else state


def like(own: Tensor, value: Any) -> Any:
    """`value` in shards as those of `own`, if `own` has any and `value` its shape. All ranks call it."""
    if not hasattr(own, "placements") or getattr(value, "shape", None) != own.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)


def recompute_activations(model: nn.Module) -> None:
    """Each block forgets what it computed inside, and computes it again for the backward pass.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174. Raises `UserError` for blocks with batch norms, whose running
    statistics the second pass would move again, and for a model without blocks.
    """
    repeated = blocks(model)
    norms = [module for block in repeated for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms or not repeated:
        reason = "whose running statistics would move twice" if norms else "and this model has none"
        raise UserError(f"--checkpoint-activations is for blocks without batch norms, {reason}")
    for block in repeated:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
