"""What a training takes of a machine: its precision, and memory for weights, gradients and the optimizer's moments."""

import collections
import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

import torch
from torch import nn

from dl import shown_bytes
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.distributed import is_main
from dl.mytorch.dtensor import local
from dl.mytorch.large import sharding

if TYPE_CHECKING:
    from dl.mytorch.train_step import TrainStep


class Need(NamedTuple):
    """Bytes that one process holds."""

    weights: int  # the moving average and buffers too
    gradients: int
    optimizer: int

    def __str__(self) -> str:
        parts = (f"{name} {shown_bytes(count)}" for name, count in self._asdict().items())
        return f"{', '.join(parts)}: {shown_bytes(sum(self))} in all, and what a batch takes"


def needed(models: list[nn.Module], optimizers: list[torch.optim.Optimizer]) -> Need:
    """Return what this process holds of `models`, the one that learns first, and for `optimizers` after their first step."""
    held = {id(tensor): local(tensor).nbytes for model in models for tensor in (*model.parameters(), *model.buffers())}
    trained = {p: local(p).nbytes for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    moments = 0
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            moments += copies(optimizer, group) * sum(trained[p] for p in group["params"])
    return Need(sum(held.values()), sum(nbytes for p, nbytes in trained.items() if p.requires_grad), moments)


def copies(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> int:
    """Return how many tensors like a parameter the optimizer keeps for it: by a step on two numbers."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    trial = type(optimizer)([{**group, "params": [parameter]}])
    trial.step()
    return sum(isinstance(value, torch.Tensor) and value.shape == parameter.shape for value in trial.state[parameter].values())


def report(step: "TrainStep") -> None:
    """Say what a training computes in and what it holds; raise `UserError` if the device has less memory.

    With `--layerwise stream`, most of it is on the disk.
    """
    models = [step.model] if step.ema is None else [step.model, step.ema.module]
    need = needed(models, step.optimizers)
    if step.config.layerwise != "stream":
        check(need, step.device)
    if is_main():
        if step.config.precision != "fp32":
            print(f"precision: {step.precision.taken} ({step.precision.reason})")
        print(f"{'on the disk' if step.config.layerwise == 'stream' else 'in memory'}: {need}", flush=True)


def check(need: Need, device: torch.device) -> None:
    """Raise `UserError` if the device has less memory than `need`."""
    there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else total_memory()
    if sum(need) > there:
        raise UserError(f"{need}; there are {shown_bytes(there)} here. --layerwise stream keeps the blocks on the disk instead")


def check_before_building(main: Callable[..., Any], config: TrainConfig) -> None:
    """Raise `UserError` if weights and gradients alone, of the network of the recipe with this `main`, are too large.

    Nothing is allocated for it. A vocabulary is taken to have two tokens, so that what is refused is too large for sure.
    With `--layerwise stream`, that is more than the disk has, or a block that is larger than the memory.
    """
    from dl.mytorch.introspect import without_values

    build = getattr(sys.modules.get(main.__module__), "build_model", None)
    if build is None:
        return
    try:
        texts = (collections.defaultdict(lambda: range(2)),) if build.__code__.co_argcount > 1 else ()
        with without_values():
            model = build(config, *texts)
    except Exception:  # what is wrong with the flags, or with a file, the recipe says itself
        return
    nbytes = _nbytes(model)
    if config.layerwise == "stream":
        folder = next(folder for folder in (Path(config.out).resolve(), *Path(config.out).resolve().parents) if folder.exists())
        free = shutil.disk_usage(folder).free
        if 2 * nbytes > free:
            raise UserError(f"{Need(nbytes, nbytes, 0)}; {folder} has {shown_bytes(free)} free: choose an --out with more")
        nbytes = max(map(_nbytes, sharding.outermost_blocks(model)), default=nbytes)
    if not os.path.exists(Path(config.out) / "last.pt"):
        check(Need(nbytes, nbytes, 0), torch.device("cpu"))


def _nbytes(module: nn.Module) -> int:
    return sum(p.nbytes for p in module.parameters())


def total_memory() -> int:
    """Return the bytes of memory of this machine, or of the container that it runs in, if its limit is lower."""
    if sys.platform == "win32":
        return _physical_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        limit = "max"
    return min(total, int(limit)) if limit.isdigit() else total


def _physical_memory() -> int:
    """Return the same by https://learn.microsoft.com/windows/win32/api/sysinfoapi/nf-sysinfoapi-globalmemorystatusex."""

    class Status(ctypes.Structure):
        _fields_ = [("dwLength", ctypes.c_uint32), ("dwMemoryLoad", ctypes.c_uint32), ("ullTotalPhys", ctypes.c_uint64)]
        _fields_ += [("others", ctypes.c_uint64 * 6)]

    status = Status(dwLength=ctypes.sizeof(Status))
    ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))  # type: ignore[attr-defined]
    return status.ullTotalPhys
