"""SVHN's MATLAB files, on small ones written after the format's description."""

import hashlib
import struct
import zlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import sources, svhn
from dl.mytorch.data.images import mat
from dl.mytorch.data.sources import find


def element(kind: int, data: bytes) -> bytes:
    """Up to 4 bytes go in the short form; longer data is filled up to 8 bytes."""
    if 0 < len(data) <= 4:
        return struct.pack("<HH", kind, len(data)) + data.ljust(4, b"\0")
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(name: str, array: np.ndarray, number: int = 2) -> bytes:
    """An array of the class uint8 (9): flags, sizes, name, and the values, first index fastest."""
    parts = element(6, struct.pack("<II", 9, 0)) + element(5, struct.pack(f"<{array.ndim}i", *array.shape))
    return element(14, parts + element(1, name.encode()) + element(number, array.tobytes(order="F")))


def mat_file(*matrices: bytes, compressed: bool = True) -> bytes:
    header = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x01IM"
    packed = (struct.pack("<II", 15, len(z)) + z for z in map(zlib.compress, matrices))
    return header + b"".join(packed if compressed else matrices)


def houses(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """X (32, 32, 3, N) and y (N, 1) with labels from 1 to 10."""
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (32, 32, 3, count), dtype=np.uint8), draw.integers(1, 11, (count, 1), dtype=np.uint8)


@pytest.mark.parametrize("compressed", [True, False])
def test_arrays_are_read_as_they_were_written(compressed: bool) -> None:
    arrays = {"X": np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5), "long_name": np.array([[1], [2], [3]], np.uint8)}
    found = dict(mat.mat_arrays(mat_file(*(matrix(name, array) for name, array in arrays.items()), compressed=compressed)))
    assert list(found) == ["X", "long_name"]
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)


def test_sizes_that_are_not_those_of_the_content_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((8, 8), np.uint8)
    for content in (mat_file(matrix("X", array), compressed=False)[:-8], mat_file(matrix("X", array, number=99))):
        with pytest.raises(ValueError, match="an element of 1|an array of kind 99"):
            list(mat.mat_arrays(content))
    monkeypatch.setattr(sources, "LARGEST", 100)  # what unpacks to more is cut there
    with pytest.raises(ValueError, match="an element of"):
        list(mat.mat_arrays(mat_file(matrix("X", array))))


def test_numbers_are_read_in_the_width_they_were_stored_in() -> None:
    content = mat_file(matrix("y", np.array([[300, -2]], "<i2"), number=3), matrix("z", np.array([[0.5]]), number=9))
    found = dict(mat.mat_arrays(content))
    assert found["y"].tolist() == [[300, -2]] and found["z"].tolist() == [[0.5]]


def test_images_are_turned_and_ten_is_the_digit_zero() -> None:
    X, y = houses(30, seed=1)
    batch = mat.parse(mat_file(matrix("X", X), matrix("y", y)))
    assert batch["images"].shape == (30, 3, 32, 32) and batch["images"].dtype == torch.uint8
    for i, channel, row, column in [(0, 0, 0, 1), (29, 2, 31, 30), (7, 1, 5, 17)]:
        assert batch["images"][i, channel, row, column] == X[row, column, channel, i]
    assert 10 in y and batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [0 if label == 10 else label for label in y[:, 0].tolist()]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data/ in which SVHN is 20 + 7 images, where `torchvision.datasets.SVHN(root="data")` puts it."""
    checksums = {}
    for i, (name, count) in enumerate((("train_32x32.mat", 20), ("test_32x32.mat", 7))):
        X, y = houses(count, seed=i)
        content = mat_file(matrix("X", X), matrix("y", y))
        (tmp_path / name).write_bytes(content)
        checksums[name] = hashlib.md5(content).hexdigest()
    places = tuple(tmp_path / place for place in mat.SOURCES["svhn"].places)
    monkeypatch.setitem(mat.SOURCES, "svhn", mat.SOURCES["svhn"]._replace(places=places, files=checksums, fetch=None))
    return tmp_path


CONFIG = TrainConfig(out="unused", data="svhn", batch_size=16)


def test_svhn_is_split_and_standardised(tiny: Path) -> None:
    splits = svhn(CONFIG)
    assert [loader.num_examples for loader in splits] == [18, 2, 7]
    X, _ = houses(7, seed=1)
    mean, std = (np.reshape(numbers, (3, 1, 1)) for numbers in ([0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]))
    expected = (X.transpose(3, 2, 0, 1) / 255 - mean) / std
    images = next(splits.test.batches())["images"].double()
    torch.testing.assert_close(images, torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_a_folder_of_its_own_comes_first(tiny: Path) -> None:
    source = mat.SOURCES["svhn"]
    assert find(source) == tiny
    (tiny / "svhn").mkdir()
    for name in source.files:
        (tiny / "svhn" / name).write_bytes(b"")
    assert find(source) == tiny / "svhn"


def test_an_altered_or_short_file_is_refused_by_name(tiny: Path) -> None:
    path = tiny / "test_32x32.mat"
    whole = path.read_bytes()
    for damaged in (whole[:-1], b"", whole[:200] + bytes([whole[200] ^ 1]) + whole[201:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{path} is not the published file"):
            svhn(CONFIG)


def test_checksums_and_addresses_are_torchvision_s(monkeypatch: pytest.MonkeyPatch, torchvision: ModuleType) -> None:
    datasets, calls = torchvision.datasets, []
    published = {name: md5 for url, name, md5 in (datasets.SVHN.split_list[split] for split in ("train", "test"))}
    assert mat.SOURCES["svhn"].files == published
    monkeypatch.setattr(datasets.utils, "download_url", lambda *call: calls.append(call))
    fetch = mat.SOURCES["svhn"].fetch
    assert fetch is not None
    fetch(datasets, "folder")
    assert [call[1:] for call in calls] == [(str(Path("folder", "svhn")), name, md5) for name, md5 in published.items()]
    assert all(url.startswith("http://ufldl.stanford.edu/housenumbers/") for url, *_ in calls)
