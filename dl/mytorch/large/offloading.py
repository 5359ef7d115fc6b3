"""Models larger than memory, exactly: block by block they visit the device, from files. `--layerwise stream`

A model's blocks are the members of its lists of modules, `self.blocks`; nothing else is asked of it.
"""

import contextlib
import ctypes
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import torch
from torch import Tensor, nn

from dl.mytorch import mapped
from dl.mytorch.config import UserError
from dl.mytorch.large import sharding

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


class Offloader:
    """Weights, gradients and optimizer state of all blocks in files; one block at a time visits the device.

    Training proceeds as usual, with the same gradients: of a block the forward pass keeps the input only, the backward
    pass computes the inside again (`sharding.checkpoint_block`), and `update` takes one block after the other. What belongs to
    no block stays on the device: embeddings, the head, buffers, and a weight that two blocks share.
    """

    def __init__(self, model: nn.Module, device: torch.device, folder: Path | str) -> None:
        _return_freed_memory()
        blocks = sharding.outermost_blocks(model)
        if not blocks:
            raise UserError("--layerwise stream is for models with blocks, lists of modules; this one has none")
        users = Counter(p for block in blocks for p in block.parameters())
        users.update(p for module in _besides(model, blocks) for p in module._parameters.values() if p is not None)
        self.parts = [_Part([p for p in block.parameters() if users[p] == 1], device, folder) for block in blocks]
        streamed = {p for part in self.parts for p in part.parameters}
        self.unblocked = [p for p in model.parameters() if p not in streamed]
        for tensor in [*self.unblocked, *model.buffers()]:
            tensor.data = tensor.data.to(device)
        self.resident: _Part | None = None
        for block, part in zip(blocks, self.parts):
            block.forward = self._loading(part, block.forward)  # type: ignore[method-assign]
            sharding.checkpoint_block(block)

    def _loading(self, part: "_Part", forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if self.resident is not part:
                self.flush()
                part.load()
                self.resident = part
            return forward(*args, **kwargs)

        return run

    def flush(self) -> None:
        """Send the block that is on the device home, with the gradients that it got: after the backward pass."""
        if self.resident is not None:
            self.resident.evict()
        self.resident = None

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """`optimizer.step()`, block after block: it passes by parameters without a gradient, so the others' are hidden."""
        self.flush()
        parameters = [*self.unblocked, *(p for part in self.parts for p in part.parameters)]
        gradients = {p: p.grad for p in parameters}
        for p in parameters:
            p.grad = None
        for part in self.parts:
            part.load(gradients, optimizer.state)
            optimizer.step()
            part.store(optimizer.state)
        for p in self.unblocked:
            p.grad = gradients[p]
        optimizer.step()


class _Part:
    """The parameters of a block, at home in files, and how they go to the device and come back."""

    def __init__(self, parameters: list[nn.Parameter], device: torch.device, folder: Path | str) -> None:
        self.parameters, self.device, self.folder = parameters, device, folder
        self.host: dict[tuple[nn.Parameter, str], Tensor] = {}
        self.filled: set[nn.Parameter] = set()  # have a gradient at home
        for p in parameters:
            if mapped.is_mapped(p.data):
                self.host[p, "weight"] = p.data
            else:
                p.data = self._keep(p, "weight", p.data)

    def load(self, gradients: dict[nn.Parameter, Tensor | None] | None = None, state: dict | None = None) -> None:
        """Onto the device: the weights; for an update also their gradients and what the optimizer remembers of them."""
        for p in self.parameters:
            p.data = self._on_device(self.host[p, "weight"])
            p.grad = gradients[p].to(self.device) if gradients and gradients[p] is not None else None
            for name, value in (state or {}).get(p, {}).items():
                state[p][name] = self._on_device(value) if _is_large(value, p) else value

    def evict(self) -> None:
        """Home again; gradients are added to those of the forwards before."""
        for p in self.parameters:
            if p.grad is not None and p in self.filled:
                self.host[p, "gradient"].add_(p.grad.to("cpu"))
            elif p.grad is not None:
                self._keep(p, "gradient", p.grad)
                self.filled.add(p)
            p.data, p.grad = self.host[p, "weight"], None
            if p in self.filled:
                p.grad = self.host[p, "gradient"]
        torch.clear_autocast_cache()  # it has a copy of the weights

    def store(self, state: dict) -> None:
        """Home after an update, which changed the weights and the optimizer's state."""
        self.filled.clear()
        for p in self.parameters:
            p.data, p.grad = self._keep(p, "weight", p.data), None
            for name, value in state.get(p, {}).items():
                state[p][name] = self._keep(p, name, value) if _is_large(value, p) else value

    def _on_device(self, host: Tensor) -> Tensor:
        return host.to(self.device, copy=True)

    def _keep(self, p: nn.Parameter, name: str, value: Tensor) -> Tensor:
        if (p, name) not in self.host:
            self.host[p, name] = mapped.mmap_zeros(value.shape, value.dtype, self.folder)
        return self.host[p, name].copy_(value.detach())


def _is_large(value: Any, p: nn.Parameter) -> bool:
    """Whether an optimizer has such a value for each weight, as the mean of its gradients; not so its number of steps."""
    return isinstance(value, Tensor) and value.shape == p.shape


def _besides(model: nn.Module, blocks: list[nn.Module]) -> list[nn.Module]:
    inside = {module for block in blocks for module in block.modules()}
    return [module for module in model.modules() if module not in inside]


def _return_freed_memory() -> None:
    """glibc keeps freed tensors of up to 32 MB for the next ones, and ends up with gaps of several blocks' size.

    Larger ones than 1 MiB get mappings of their own, which go when they are freed; other systems have no such call.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)
