"""Where the weights are while a model trains: on one device or a copy on each rank, in shards, or offloaded to files."""

import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dl.mytorch import distributed
from dl.mytorch.config import TrainConfig
from dl.mytorch.distributed import all_reduce_sum, data_world_size, world_size
from dl.mytorch.dtensor import local
from dl.mytorch.large import sharding, tensor_parallel

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Placement:
    """All weights are on the device; several ranks have a copy each (DDP).

    A `TrainStep` takes one by its config (`choose`) and leaves to it whatever depends on where weights and gradients are.
    """

    previews = True  # a forward pass is quick enough to show something after each evaluation
    mapped = False  # a checkpoint may be too large to be read into memory at once
    in_place = False  # `parallelize` changes the model itself, and has to be called for its average too

    def __init__(self, config: TrainConfig, device: torch.device, precision: str = "fp32") -> None:
        self.config, self.device, self.precision = config, device, precision
        self.reports = config.plots  # something is shown at the end

    def move(self, model: nn.Module) -> None:
        """Put `model` where it is to be, in place, before an optimizer sees its parameters."""
        model.to(self.device)
        if self.config.channels_last:
            model.to(memory_format=torch.channels_last)

    def checkpoint_activations(self, model: nn.Module) -> None:
        """Make the blocks recompute their activations in the backward pass."""
        sharding.checkpoint_activations(model)

    def compile(self, model: nn.Module) -> None:
        """Have torch compile `model`, in place."""
        model.compile()

    def parallelize(self, model: nn.Module) -> nn.Module:
        """Return `model` as a step calls it when several ranks share the work."""
        if self.config.parallel == "none" or world_size() == 1:
            return model
        # Buffers are shared before each evaluation. At each forward, that would spoil a backward pass through two of them.
        renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # by torch 2.13
        unshared = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
        # Without the view, all gradients are in memory twice.
        return DistributedDataParallel(model, gradient_as_bucket_view=True, **unshared)

    @contextlib.contextmanager
    def no_sync(self, network: nn.Module) -> Iterator[None]:
        """Leave the gradients of the ranks unsummed in the backward passes inside: all but the last of a step."""
        with network.no_sync() if isinstance(network, DistributedDataParallel) else contextlib.nullcontext():
            yield

    def after_backward(self, parameters: list[nn.Parameter]) -> None:
        """Tidy up after the last backward pass of an update of `parameters`."""

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm of all gradients together, a scalar on the device."""
        norms = [norm.to(self.device) for norm in torch._foreach_norm([local(gradient) for gradient in gradients])]
        return torch.linalg.vector_norm(torch.stack(norms))

    def scale(self, gradients: list[Tensor], factor: Tensor) -> None:
        """Multiply the gradients, in place, by a scalar on the device."""
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Have `optimizer` change its parameters."""
        optimizer.step()


class Sharded(Placement):
    """Each rank has a part of the weights, of their gradients and of the optimizer's state.

    Some rows of every weight (FSDP), perhaps as other ranks too (HSDP); or a part of the layers in the blocks (tensor
    parallelism); or of these parts some rows.
    """

    in_place = True

    def __init__(self, config: TrainConfig, device: torch.device, precision: str = "fp32") -> None:
        super().__init__(config, device, precision)
        self.mapped = world_size() > 1
        self.previews = not config.sequence  # a text that is generated grows by single tokens
        self.reports &= self.previews

    @functools.cached_property
    def mesh(self) -> "DeviceMesh":
        """The ranks, in one or two dimensions."""
        return sharding.make_mesh(self.config, self.device.type)

    def move(self, model: nn.Module) -> None:
        model.to(self.device)  # shards take weights of the usual layout alone

    def compile(self, model: nn.Module) -> None:
        """Compile the blocks, between which shards come and go; identical blocks share a program."""
        for part in sharding.outermost_blocks(model) or [model]:
            part.compile()

    def parallelize(self, model: nn.Module) -> nn.Module:
        if world_size() == 1:
            return model
        data = self.mesh
        if data_world_size() < world_size():
            tensor_parallel.split(model, self.mesh["tensor"], self.config.sequence)
            data = self.mesh["data"]
        return model if self.config.parallel == "tp" else sharding.shard(model, data, self.precision == "bf16")

    @contextlib.contextmanager
    def no_sync(self, network: nn.Module) -> Iterator[None]:
        sharded = sharding.is_sharded(network)
        if sharded:
            network.set_requires_gradient_sync(False)
        yield
        if sharded:
            network.set_requires_gradient_sync(True)

    def after_backward(self, parameters: list[nn.Parameter]) -> None:
        """Add up over ranks the gradients that each of them has for its own heads or positions: those of norms."""
        for p in parameters:
            if hasattr(p.grad, "placements") and p.grad.placements != p.placements:
                p.grad = p.grad.redistribute(placements=p.placements)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Return the norm of all gradients together; of numbers that several ranks have, each counts once."""
        if world_size() == 1:
            return super().norm(gradients)
        norms = torch.stack(torch._foreach_norm([local(gradient) for gradient in gradients]))
        # Each number should be in the sum over all ranks once; `all_reduce_sum` divides it by those of a tensor group.
        once = [world_size() / data_world_size() / sharding.copies(gradient) for gradient in gradients]
        norm = torch.linalg.vector_norm(norms * norms.new_tensor(once).sqrt())
        return all_reduce_sum(norm.square()).sqrt()

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Have `optimizer` change its parameters; with tp, those that ranks share apart, as fused kernels ask for one kind."""
        groups = optimizer.param_groups
        if self.config.parallel == "tp":
            kinds = [[p for p in group["params"] if hasattr(p, "placements") == k] for group in groups for k in (False, True)]
            optimizer.param_groups = [{**groups[i // 2], "params": kind} for i, kind in enumerate(kinds)]
        optimizer.step()
        optimizer.param_groups = groups


class Offloaded(Placement):
    """Weights, gradients and optimizer state of the blocks are in files, and visit the device in turn."""

    previews = False  # which may take a hundred passes through all blocks
    mapped = True

    def move(self, model: nn.Module) -> None:
        from dl.mytorch.large.offloading import Offloader

        self.offloader = Offloader(model, self.device, self.config.out)

    def checkpoint_activations(self, model: nn.Module) -> None:
        """Do nothing: offloaded blocks do so anyway."""

    def after_backward(self, parameters: list[nn.Parameter]) -> None:
        self.offloader.flush()

    def scale(self, gradients: list[Tensor], factor: Tensor) -> None:
        torch._foreach_mul_(gradients, float(factor))  # these are on the CPU

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        self.offloader.update(optimizer)


def choose(config: TrainConfig, device: torch.device, precision: str = "fp32") -> Placement:
    """Return the placement that the config asks for; `precision` is what a forward pass takes."""
    distributed.set_tensor_size(sharding.tensor_size(config))
    shares = config.parallel in ("fsdp", "hsdp", "tp")
    kind = Offloaded if config.layerwise == "stream" else Sharded if shares else Placement
    return kind(config, device, precision)
