"""Ids of tokens in a file: a text that is larger than memory, in shuffled chunks for training."""

from pathlib import Path
from typing import Iterable, Sequence

import numpy as np
import torch

from dl.mytorch.config import UserError
from dl.mytorch.data.loader import Batch, Loader
from dl.mytorch.files import recorded_write, regular_file

KIND = np.dtype("<u2")  # two bytes each, little end first, nothing else in the file: as nanoGPT has it
MOST = 2**16  # ids


def write_tokens(path: Path, parts: Iterable[Sequence[int]]) -> int:
    """Write the ids of all parts, one after another; returns how many. The file is whole or not there, its checksum beside it.

    Raises `UserError` for an id that does not fit into two bytes.
    """
    count = 0
    with recorded_write(path) as file:
        for part in parts:
            ids = np.asarray(part, dtype=np.int64)
            if len(ids) and not 0 <= ids.min() <= ids.max() < MOST:
                raise UserError(f"{path} can hold ids below {MOST:,}; got {ids.min()} to {ids.max()}")
            file.write(ids.astype(KIND).tobytes())
            count += len(ids)
    return count


def map_tokens(path: Path) -> np.ndarray:
    """Return the ids of a file, (T,), mapped into memory: what is read takes memory, and as long as this is kept.

    Raises `UserError` when there is no such regular file, or it holds no whole number of ids.
    """
    size = regular_file(path).stat().st_size
    if size == 0 or size % KIND.itemsize:
        raise UserError(f"{path} has {size:,} bytes: ids of {KIND.itemsize} bytes each were to be in it")
    return np.memmap(path, dtype=KIND, mode="r")


def shuffled_chunks(path: Path, length: int, batch_size: int, *, end: int | None = None, seed: int = 0) -> Loader:
    """Return batches "tokens" (B, length) and "targets", the same one id later, from the file's first `end` ids.

    The text is cut into chunks side by side; an epoch has each once, in an order of its own, whatever the number of
    ranks. Nothing but this order is kept in memory, 16 bytes for each chunk, and a run resumes exactly at any batch.
    Raises `UserError` when the text is too short for one chunk.
    """
    end = len(map_tokens(path)) if end is None else end
    if end <= length:
        raise UserError(f"a text of {end} tokens is too short for chunks of {length} and the token after")

    def cut(batch: Batch, _: torch.Generator) -> Batch:
        ids = map_tokens(path)  # again for each batch: pages of the one before may leave memory
        places = (batch["place"][:, None] * length + torch.arange(length + 1)).numpy()  # (B, length + 1)
        chunks = torch.from_numpy(ids[places].astype(np.int64))
        return {"tokens": chunks[:, :-1], "targets": chunks[:, 1:]}

    return Loader({"place": torch.arange((end - 1) // length)}, batch_size, shuffle=True, seed=seed, transform=cut)
