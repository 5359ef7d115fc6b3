"""Ranks and devices. No other file of the project asks how many processes there are or where tensors live."""

import contextlib
import functools
import os
import random
import signal
import threading
from datetime import timedelta
from typing import Any, Iterator

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn  # before a process group is there, see launcher.py
from torch import Tensor, nn

from dl.mytorch import system
from dl.mytorch.config import UserError

TIMEOUT = timedelta(minutes=10)  # the longest that a rank waits for the others, to begin and at any time after
_tensor_size = 1  # see `set_tensor_size`


@functools.cache
def background_group() -> dist.ProcessGroup:
    """Return a second group of all ranks, on the CPU, for what runs beside training. All ranks make the first call."""
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    assert isinstance(group, dist.ProcessGroup)  # of all ranks, so that this one is a member
    return group


def restarted() -> bool:
    """Return whether torchrun has started this process in place of one that died (`--max-restarts`)."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


@contextlib.contextmanager
def catch_signals() -> Iterator[list[int]]:
    """SIGINT, SIGTERM and what else asks for a stop go into the list that this gives, to be read between two steps.

    A second one interrupts at once.
    """
    noted: list[int] = []

    def note(number: int, _: Any) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield noted
        return
    before = {number: signal.signal(number, note) for number in system.stop_signals()}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rank() -> int:
    """Return the index of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def set_tensor_size(size: int) -> None:
    """Have each `size` ranks in a row compute every forward pass together, from one batch: tensor parallelism."""
    global _tensor_size
    _tensor_size = size


def data_rank() -> int:
    """Return the index of this process among those that read different data; ranks of one forward pass have the same."""
    return rank() // _tensor_size


def data_world_size() -> int:
    """Return the number of parts that a batch is cut into: of all processes, without tensor parallelism."""
    return world_size() // _tensor_size


def is_main() -> bool:
    """Return whether this is rank 0, the one that writes files and talks."""
    return rank() == 0


def device(name: str = "auto") -> torch.device:
    """Return the device of this rank. "auto": cuda, mps or cpu, whichever is there, in this order.

    Raises `UserError` for a device that torch does not know or that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        chosen = torch.device("meta")  # like the devices of torch that nothing here is made for
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"--device {name}: no such device; say auto, cpu, cuda, cuda:1 or mps")
    if chosen.type == "cuda" and chosen.index is None:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    lacks_cuda = chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()
    if lacks_cuda or (chosen.type == "mps" and not torch.backends.mps.is_available()):
        raise UserError(f"--device {name}: this machine has no {chosen}; --device auto takes what there is")
    return chosen


def to_device(batch: dict[str, Tensor], where: torch.device, channels_last: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a batch on a device, images (B, C, H, W) with the channel innermost if asked for."""
    moved = {name: tensor.to(where, non_blocking=True) for name, tensor in batch.items()}
    if channels_last:
        moved = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in moved.items()}
    return moved


def synchronize(where: torch.device) -> None:
    """Wait until the device has done what was asked of it: before a clock is read."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)
    elif where.type == "mps":
        torch.mps.synchronize()


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on every device."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # with a rank added, the largest seed is more than NumPy takes
    torch.manual_seed(seed)


def use_deterministic_algorithms() -> None:
    """Have torch refuse what may give other bits the next time, in the whole process from now on. See `--deterministic`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch refuses products without it
    torch.backends.cudnn.benchmark = False  # it would choose algorithms by their time
    torch.use_deterministic_algorithms(True)


def rng_state() -> dict[str, Any]:
    """Return the state of all generators of this process, of types that `torch.load(weights_only=True)` accepts."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {"python": [version, torch.tensor(words), gauss], "torch": torch.get_rng_state()}
    state["numpy"] = [name, torch.from_numpy(keys.astype(np.int64)), *rest]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what `rng_state` returned; files of version 0.1 have lists where it has tensors."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(torch.as_tensor(words).tolist()), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


@contextlib.contextmanager
def fork_rng(seed: int) -> Iterator[None]:
    """Seed all generators inside, and restore them after: what runs there takes nothing from the randomness outside."""
    outside = rng_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_rng_state(outside)


def on_backend(x: Tensor) -> Tensor:
    """`x` where the backend of the process group can reach it: NCCL reads CUDA tensors only."""
    return x.cuda() if dist.get_backend() == "nccl" else x.cpu()


def all_reduce_sum(x: Tensor) -> Tensor:
    """Return the sum of `x` over the ranks that read different data, on all ranks; `x` itself is left alone."""
    if world_size() == 1:
        return x
    total = on_backend(x.detach()).clone()
    dist.all_reduce(total)  # over all ranks: each part of the data counts as often as ranks read it
    return (total / _tensor_size if total.is_floating_point() else total // _tensor_size).to(x.device)


def gather_objects(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """The small Python object `value` of every rank, in the order of ranks; through `group`, if given, one of all ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return values


def gather_parts(value: Any) -> list[Any]:
    """The same of the ranks that read different data."""
    return gather_objects(value)[::_tensor_size]


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def broadcast_buffers(model: nn.Module) -> None:
    """Give every rank the buffers of rank 0 (running statistics), so that all evaluate the same network."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
