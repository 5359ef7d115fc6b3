"""How ranks share a model: each has all of it (DDP), or a part of every weight (FSDP)."""

import contextlib
import inspect
from typing import Iterator

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dl.mytorch.distributed import world
from dl.mytorch.large import sharding


def parallelize(model: nn.Module, parallel: str, precision: str = "fp32") -> nn.Module:
    """`model` as the training step calls it when several ranks share the work; "fsdp" shards its weights in place."""
    if parallel == "none" or world() == 1:
        return model
    if parallel == "fsdp":
        return sharding.shard(model, next(model.parameters()).device.type, world(), precision == "bf16")
    # Buffers are shared before each evaluation. At each forward, that would spoil a backward pass through two of them.
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # by torch 2.13
    unshared = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    # Without the view, all gradients are in memory twice.
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **unshared)


@contextlib.contextmanager
def no_sync(model: nn.Module) -> Iterator[None]:
    """Backward passes inside leave the gradients of the ranks unsummed: for all but the last of a step."""
    if isinstance(model, DistributedDataParallel):
        with model.no_sync():
            yield
    elif sharding.is_sharded(model):
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)
    else:
        yield
