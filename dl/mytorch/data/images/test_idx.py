"""MNIST files: how they are laid out, and what the bundled sample holds."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import fashion_mnist, mnist
from dl.mytorch.data.images import idx
from dl.mytorch.data.images.idx import parse_idx


def idx_bytes(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(24,), (4, 6), (2, 3, 4)])
def test_an_array_is_read_as_it_was_written(shape: tuple[int, ...]) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(shape)
    result = parse_idx(idx_bytes(array))
    assert result.dtype == torch.uint8
    assert torch.equal(result, torch.from_numpy(array))


@pytest.mark.parametrize("content", [b"\0\0\x08\x03", idx_bytes(np.zeros((2, 3), np.uint8))[:-1], b"\0\0\x0b\x01\0\0\0\1\0"])
def test_sizes_that_are_not_those_of_the_content_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no idx file of bytes"):
        parse_idx(content)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which fashion_mnist and mnist are 40 + 8 images; image i is filled with i, and its label is i mod 10."""
    checksums = {}
    for prefix, count in (("train", 40), ("t10k", 8)):
        fills = np.arange(count, dtype=np.uint8)
        images = np.broadcast_to(fills[:, None, None], (count, 28, 28))
        for kind, array in (("images-idx3", images), ("labels-idx1", fills % 10)):
            content = idx_bytes(np.ascontiguousarray(array))
            (tmp_path / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content))
            checksums[f"{prefix}-{kind}-ubyte"] = hashlib.sha256(content).hexdigest()
    for name in ("fashion_mnist", "mnist"):
        source = idx.SOURCES[name]._replace(places=(tmp_path,), files=checksums)
        monkeypatch.setitem(idx.SOURCES, name, source)
    return tmp_path


def config(data: str) -> TrainConfig:
    return TrainConfig(out="unused", data=data, batch_size=16)


def test_images_and_labels_come_together(tiny: Path) -> None:
    for part, count in zip(idx.load("fashion_mnist"), (40, 8)):
        assert part["images"].shape == (count, 1, 28, 28) and part["images"].dtype == torch.uint8
        assert part["images"][:, 0, 9, 9].tolist() == list(range(count))
        assert part["labels"].tolist() == [i % 10 for i in range(count)] and part["labels"].dtype == torch.int64


def test_splits_are_standardised_with_the_set_s_own_numbers(tiny: Path) -> None:
    for load, name, mean, std in ((fashion_mnist, "fashion_mnist", 0.2860, 0.3530), (mnist, "mnist", 0.1307, 0.3081)):
        test = next(load(config(name)).test.batches())
        torch.testing.assert_close(test["images"][:, 0, 0, 0], (torch.arange(8) / 255 - mean) / std, atol=1e-5, rtol=0)


def test_an_altered_file_is_refused_by_name(tiny: Path) -> None:
    path = tiny / "t10k-labels-idx1-ubyte.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[-1] ^= 1
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=f"{path} is not the published file"):
        fashion_mnist(config("fashion_mnist"))


@pytest.mark.parametrize("data", ["mnist", "cifar10", "fashion_mnist-", "-sample", "", "fashion_mnist-sample-sample"])
def test_another_data_set_s_name_is_refused(data: str) -> None:
    with pytest.raises(UserError, match="fashion_mnist-sample"):
        fashion_mnist(config(data))


def test_mnist_has_no_sample() -> None:
    with pytest.raises(UserError, match="--data mnist-sample"):
        mnist(config("mnist-sample"))


def test_the_bundled_sample_is_the_first_10000_and_2000_of_fashion_mnist() -> None:
    train, test = idx.load("fashion_mnist-sample")
    assert train["images"].shape == (10_000, 1, 28, 28) and test["images"].shape == (2_000, 1, 28, 28)
    assert train["labels"][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # an ankle boot, as every tutorial prints it
    assert test["labels"][:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    for labels in (train["labels"], test["labels"]):
        assert labels.unique().tolist() == list(range(10))
