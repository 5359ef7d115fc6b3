"""Sharding: weights in parts on all ranks; and activation checkpointing: what a block computes is computed twice, not kept.

Shards are PyTorch's FSDP2, https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html, after ZeRO's third stage
(Rajbhandari et al. 2019, https://arxiv.org/abs/1910.02054): of a parameter, then a DTensor, a rank holds some rows, and so
it does of the gradient and of the optimizer's state. Its modules are imported where they are needed: they take a second.
"""

import contextlib
import functools
import math
import os
from typing import TYPE_CHECKING, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.distributed import world_size

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def blocks(model: nn.Module) -> list[nn.Module]:
    """The members of all lists of modules, those inside of others first; not those that only hold others, without a forward."""
    lists = [module for module in reversed(list(model.modules())) if isinstance(module, nn.ModuleList)]
    return [block for members in lists for block in members if _has_forward(block)]


def outermost_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that are not inside of others."""
    found = []
    for module in model.children():
        repeated = isinstance(model, nn.ModuleList) and _has_forward(module)
        found += [module] if repeated else outermost_blocks(module)
    return found


def _has_forward(module: nn.Module) -> bool:
    return getattr(module.forward, "__func__", None) is not nn.Module.forward


def make_mesh(config: TrainConfig, device_type: str) -> "DeviceMesh":
    """Return the ranks in a row, or in rows: copies of each other with hsdp, of one forward pass each with tensor parallelism.

    Raises `UserError` when they do not divide into rows.
    """
    from torch.distributed.device_mesh import init_device_mesh

    size, names = tensor_size(config), ("data", "tensor")
    if config.parallel == "hsdp":
        size = config.shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
        names = ("copies", "shards")
    elif size == 1:
        return init_device_mesh(device_type, (world_size(),))
    if world_size() % size:
        wish = "--shard-size" if config.parallel == "hsdp" else "--tensor-size"
        raise UserError(f"{wish} {size}: the {world_size()} ranks do not divide into groups of {size}")
    return init_device_mesh(device_type, (world_size() // size, size), mesh_dim_names=names)


def tensor_size(config: TrainConfig) -> int:
    """Return the number of ranks that compute each forward pass together. Raises `UserError` for flags without their way."""
    parallel, tensor, shards = config.parallel, config.tensor_size, config.shard_size
    if tensor < 1 or shards < 0:
        raise UserError(f"--tensor-size {tensor}, --shard-size {shards}: numbers of ranks")
    if tensor > 1 and parallel != "fsdp":
        raise UserError("--tensor-size is for --parallel fsdp; with --parallel tp it is the number of ranks")
    if shards and parallel != "hsdp":
        raise UserError("--shard-size is for --parallel hsdp")
    if config.sequence and parallel != "tp" and tensor == 1:
        raise UserError("--sequence is for --parallel tp, or fsdp with --tensor-size")
    return world_size() if parallel == "tp" else min(tensor, world_size())


def shard(model: nn.Module, mesh: "DeviceMesh", bf16: bool = False) -> nn.Module:
    """Shard `model` in place: each block on its own, gathered when its turn comes, and the rest as one.

    A mesh of two dimensions has copies in its first, shards in its second (HSDP, Zhao et al. 2023,
    https://arxiv.org/abs/2304.11277, section 3.2.2).

    With `bf16` weights are gathered in bfloat16: half of the bytes, and no copies that autocast would keep for the
    backward pass. Sums of gradients, shards and the update stay in fp32; so does all of a network with batch norms, which
    torch does not run on statistics and weights of two kinds.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = bf16 and not has_batch_norm(model)
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if half else MixedPrecisionPolicy()
    for block in blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether a pass in training moves running statistics."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def copies(tensor: Tensor) -> int:
    """Return how many ranks hold the same numbers of `tensor`, sharded or not, as this one."""
    if not hasattr(tensor, "placements"):
        return world_size()
    mesh = tensor.device_mesh
    replicated = [mesh.size(i) for i, placement in enumerate(tensor.placements) if placement.is_replicate()]
    return world_size() // mesh.size() * math.prod(replicated)


def is_sharded(module: nn.Module) -> bool:
    """Return whether `shard` has been there."""
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


def checkpoint_activations(model: nn.Module) -> None:
    """Each block forgets what it computed inside, and computes it again for the backward pass. `UserError` without blocks.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    repeated = blocks(model)
    if not repeated:
        raise UserError("--checkpoint-activations is for models with blocks, lists of modules; this one has none")
    for block in repeated:
        checkpoint_block(block)


def checkpoint_block(block: nn.Module) -> None:
    """The same for one block."""
    options = {"context_fn": lambda: (contextlib.nullcontext(), _spare_buffers(block))} if has_batch_norm(block) else {}
    block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False, **options)  # type: ignore[method-assign]


@contextlib.contextmanager
def _spare_buffers(block: nn.Module) -> Iterator[None]:
    """Inside, the block has copies of its buffers: running statistics have moved already when a pass is repeated."""
    own = [(m._buffers, name, buffer) for m in block.modules() for name, buffer in m._buffers.items() if buffer is not None]
    for place, name, buffer in own:
        place[name] = buffer.clone()
    try:
        yield
    finally:
        for place, name, buffer in own:
            place[name] = buffer
