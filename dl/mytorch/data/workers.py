"""Worker processes of a loader: how the data set gets there, and which signals they heed."""

import atexit
import copy
import ctypes
import functools
import io
import multiprocessing
import os
import pickle
import signal
from typing import Any, Callable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dl.mytorch import system
from dl.mytorch.data.loader import Batch, Epoch, Loader


def reader(loader: Loader) -> DataLoader:
    """Return what reads the batches ((epoch, rank, world), t) in its `sampler`, in processes if `loader` asks for them."""
    return DataLoader(
        _Epochs(loader),
        batch_size=None,  # the source gives whole batches
        sampler=[],
        num_workers=loader.num_workers,
        persistent_workers=loader.num_workers > 0,  # where they do not begin as copies of this process, each imports torch
        worker_init_fn=outlive_signals(),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else DataLoader draws its base seed from the training's randomness
    )


class _Epochs(Dataset):
    """All batches of all epochs: item ((epoch, rank, world), t). It is what worker processes get."""

    def __init__(self, loader: Loader) -> None:
        self.loader = copy.copy(loader)
        self.loader.transform = None  # stays in the main process: functions made by functions cannot be sent to workers
        self.loader.reader = None
        self.share, self.epoch = None, None

    def __getitem__(self, place: tuple[tuple[int, int, int], int]) -> Batch:
        share, t = place
        if share != self.share:
            self.share, self.epoch = share, Epoch(self.loader, *share)
        return self.epoch[t]

    def __reduce__(self) -> tuple:
        return unpack, (type(self), pack(self.__dict__))


class _Pickler(pickle.Pickler):
    """Copies the numbers of a tensor: torch would open a file of shared memory for each, and a process may have 1024 files."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and not value.requires_grad and value.dtype != torch.bfloat16:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def pack(value: dict[str, Any]) -> bytes:
    """Return the attributes of an object as bytes, for another process of this run."""
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL).dump(value)
    return file.getvalue()


def unpack(kind: type, packed: bytes) -> Any:
    """Return the object of which `pack` got the attributes."""
    made = kind.__new__(kind)
    made.__dict__.update(pickle.loads(packed))
    return made


def outlive_signals() -> Callable[[int], None]:
    """Return what a worker does first: it ignores the signals that ask a run to stop, until the main process has ended.

    A batch system and Ctrl-C send them to all processes, while the main process needs its workers to finish the step.
    """
    return functools.partial(_ignore_signals, _ended())


@functools.cache
def _ended() -> Any:
    """Shared memory that becomes true when this process ends. It then sends its workers a SIGTERM, and waits for them."""
    ended = multiprocessing.RawValue(ctypes.c_bool, False)
    atexit.register(setattr, ended, "value", True)
    return ended


def _ignore_signals(ended: Any, worker: int) -> None:
    for number in system.stop_signals():
        signal.signal(number, lambda *_: os._exit(0) if ended.value else None)
