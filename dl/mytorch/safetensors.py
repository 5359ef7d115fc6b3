"""Files of tensors, https://github.com/huggingface/safetensors, "Format": header length, header in JSON, numbers.

Nothing in such a file can be executed. All that its header says is checked before it is used.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any, BinaryIO, Iterator, Mapping, NamedTuple, NoReturn

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.files import regular_file

DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool},
}
LONGEST_HEADER = 100_000_000  # bytes, the format's own limit


class Entry(NamedTuple):
    """Where a tensor is in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int  # of its first byte in the file
    size: int  # bytes


class Header(NamedTuple):
    """What a file says of itself."""

    path: Path
    tensors: dict[str, Entry]
    metadata: dict[str, str]


def write(tensors: Mapping[str, Tensor], file: BinaryIO, metadata: Mapping[str, str] = {}) -> str:
    """Write `tensors`, of any strides, on any device, to `file`; return the SHA-256 of what was written."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)  # numbers start at a multiple of 8
    parts: Iterator[Any] = (_bytes(tensor.detach().cpu().contiguous()) for tensor in tensors.values())
    sha256 = hashlib.sha256()
    for part in (len(words).to_bytes(8, "little"), words, *parts):
        sha256.update(part)
        file.write(part)
    return sha256.hexdigest()


def read_header(path: Path | str) -> Header:
    """Return what is in a file, without the numbers. Raises `UserError` when any of it is not as the format says."""
    path = regular_file(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            _damaged(path, "it ends too early")
        words = file.read(length)
    try:
        header = json.loads(words)
        metadata = header.pop("__metadata__", {})
        entries = {name: _entry(value, 8 + length) for name, value in header.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        _damaged(path, f"its header: {str(error)[:100]}")
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.size)):
        if entry.start != end:  # the format allows neither gaps nor two tensors in one place
            _damaged(path, "tensors overlap, or there is something between them")
        end += entry.size
    if end != size:
        _damaged(path, f"{size} bytes instead of {end}")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _damaged(path, "its header: metadata is text")
    return Header(path, entries, metadata)


def read_tensor(header: Header, name: str) -> Tensor:
    """Return one tensor of a file, on the CPU, in memory of its own."""
    entry = header.tensors[name]
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    with open(header.path, "rb") as file:
        file.seek(entry.start)
        if file.readinto(_bytes(tensor)) != entry.size:  # type: ignore[attr-defined]
            _damaged(header.path, "it ends too early")
    return tensor


def read(path: Path | str) -> dict[str, Tensor]:
    """Return all tensors of a file. Raises `UserError` as `read_header`."""
    header = read_header(path)
    return {name: read_tensor(header, name) for name in header.tensors}


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())


def _entry(value: dict[str, Any], start: int) -> Entry:
    dtype, shape, (first, last) = DTYPES[value["dtype"]], tuple(value["shape"]), value["data_offsets"]
    if not all(type(number) is int and 0 <= number < 2**63 for number in (*shape, first, last)):
        raise ValueError("shapes and offsets are whole numbers")
    if last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{last - first} bytes for a tensor of shape {shape}")
    return Entry(dtype, shape, start + first, last - first)


def _damaged(path: Path, reason: str) -> NoReturn:
    raise UserError(f"{path} is damaged or not a checkpoint ({reason})")
