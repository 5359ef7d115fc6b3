"""Tensors in mapped files: they take disk instead of memory, and are gone with the process."""

import atexit
import contextlib
import math
import os
import tempfile
from pathlib import Path
from typing import Any, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dl.mytorch.config import UserError
from dl.mytorch.files import room


def mmap_zeros(shape: Sequence[int], dtype: torch.dtype, folder: Path | str) -> Tensor:
    """Return zeros that take disk instead of memory: the system reads and writes what is used, and caches what it has room for.

    The file, in `folder`, has no name, so that it is gone with the tensor, however the process ends (on Windows it is removed
    when Python ends). Raises `UserError` if the disk has no room for it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder)
    try:
        allocate(handle, math.prod(shape) * dtype.itemsize)
        return torch.from_file(name, shared=True, size=math.prod(shape), dtype=dtype).view(*shape)
    except OSError as error:
        raise UserError(f"no room in {folder} for weights on disk: {error.strerror}{room(folder)}") from error
    finally:
        os.close(handle)
        _remove_when_closed(name)


def is_mapped(x: Tensor) -> bool:
    """Return whether `mmap_zeros` made it."""
    return x.untyped_storage().filename is not None


class init_on_disk(TorchFunctionMode):
    """`with init_on_disk(folder): model = ...`: its large weights are never in memory at once, not even while they are made."""

    SMALL = 2**16  # numbers that memory takes

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.folder = folder

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.empty and kwargs.get("device", "of no layer") is None:  # as torch's layers make their weights
            planned = torch.empty(*args, **{**kwargs, "device": "meta"})
            if planned.numel() > self.SMALL:
                return mmap_zeros(planned.shape, planned.dtype, self.folder)
        return function(*args, **kwargs)


def allocate(handle: int, size: int) -> None:
    """Give an empty open file its blocks, without which a mapped file may end in SIGBUS. `OSError` if the disk has no room."""
    if hasattr(os, "posix_fallocate"):
        if size:
            os.posix_fallocate(handle, 0, size)
        return
    zeros = bytes(2**20)  # macOS and Windows
    for start in range(0, size, len(zeros)):
        os.write(handle, zeros[: size - start])


def _remove_when_closed(path: str) -> None:
    """Remove a file that is mapped: at once, or on Windows, which refuses, when Python ends."""
    try:
        os.unlink(path)
    except PermissionError:
        atexit.register(_remove, path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
