"""Files of tensors are written and read as the format says, and nothing of a header is taken on trust."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.mytorch import safetensors, testing
from dl.mytorch.config import UserError

HEADER = {
    "__metadata__": {"format": "pt"},
    "b": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [4, 8]},
    "a": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
}
NUMBERS = struct.pack("<f", 1.5) + b"\x80\x3f\x00\xc0"


def written(path: Path, header: Any, numbers: bytes = NUMBERS) -> Path:
    words = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(words)) + words + numbers)
    return path


def test_a_file_is_read_as_the_format_says(tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", HEADER)
    expected = {"a": torch.tensor(1.5), "b": torch.tensor([[1.0], [-2.0]], dtype=torch.bfloat16)}
    testing.assert_same_state(safetensors.read(path), expected, "tensors")
    assert safetensors.read_header(path).metadata == {"format": "pt"}


def test_what_is_written_is_read_whatever_its_type_shape_and_strides(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    numbers = torch.arange(6).view(2, 3)
    tensors = {str(dtype): numbers.to(dtype) for dtype in safetensors.DTYPES.values()}
    tensors |= {"columns": numbers.T, "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4), "one": torch.ones(1).expand(5)}
    file = io.BytesIO()
    safetensors.write(tensors, file)
    path.write_bytes(file.getvalue())
    testing.assert_same_state(safetensors.read(path), tensors, "tensors")
    assert (8 + struct.unpack("<Q", file.getvalue()[:8])[0]) % 8 == 0  # numbers are aligned


def changed(**fields: Any) -> dict[str, Any]:
    return HEADER | {"a": HEADER["a"] | fields}


@pytest.mark.parametrize(
    "header",
    [
        *(b"", b"[]", b"{", b"\xff", b'{"a": 1}', b"[" * 100_000),
        changed(dtype="F999"),
        changed(dtype=["F32"]),
        changed(shape=[2]),
        changed(shape=[-1]),
        changed(shape=[True]),
        changed(shape=[1.0]),
        changed(shape=[2**70, 0], data_offsets=[0, 0]),
        changed(data_offsets=[4, 8]),  # as those of b
        changed(data_offsets=[8, 12]),  # after the end, and a gap
        changed(data_offsets=[-4, 0]),
        changed(data_offsets=[0]),
        {"a": HEADER["a"]},  # bytes that belong to nothing
        HEADER | {"__metadata__": {"format": 1}},
        HEADER | {"__metadata__": []},
    ],
)
def test_a_header_that_is_not_as_the_format_says_is_a_line(header: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", header)
    with pytest.raises(UserError, match="model.safetensors is damaged or not a checkpoint") as refused:
        safetensors.read(path)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_cut_or_too_long_or_whose_header_would_be_is_a_line(tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", HEADER)
    content = path.read_bytes()
    for damaged in (content[:-1], content + b"x", content[:20], content[:7], b"", b"\xff" * 7 + content[7:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="model.safetensors is damaged or not a checkpoint"):
            safetensors.read(path)
