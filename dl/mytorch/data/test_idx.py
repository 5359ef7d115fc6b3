"""MNIST files: what is damaged or altered is never trained on; where files are looked for; what the sample holds."""

import gzip
import hashlib
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from dl.mytorch import vision
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Splits, fashion_mnist, idx, mnist
from dl.mytorch.data.idx import read_idx


def idx_bytes(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
CONTENT = idx_bytes(PIXELS)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_a_published_file_is_read_plain_or_gzipped(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(CONTENT) if name.endswith(".gz") else CONTENT)
    result = read_idx(path, sha(CONTENT))
    assert result.dtype == torch.uint8
    assert torch.equal(result, torch.from_numpy(PIXELS))


def header(kind: int = 8, dims: int = 3, count: int = 2) -> bytes:
    return bytes([0, 0, kind, dims]) + struct.pack(">3I", count, 3, 4) + PIXELS.tobytes()


@pytest.mark.parametrize(
    "damage",
    {
        "empty": b"",
        "cut in the magic number": CONTENT[:2],
        "cut in the sizes": CONTENT[:9],
        "without its last byte": CONTENT[:-1],
        "one byte more": CONTENT + b"\0",
        "other kind of numbers": header(kind=9),
        "two dimensions said": header(dims=2),
        "no dimensions said": header(dims=0),
        "255 dimensions said": header(dims=255),
        "more images said": header(count=3),
        "4 billion images said": header(count=2**32 - 1),
        "a web page": b"<!DOCTYPE html><html><body>Not Found</body></html>",
    }.items(),
    ids=lambda item: item[0],
)
@pytest.mark.parametrize("gzipped", [False, True])
def test_a_damaged_file_is_refused_by_name_whatever_its_checksum(damage: tuple[str, bytes], gzipped: bool, tmp_path: Path) -> None:
    content = damage[1]
    path = tmp_path / ("images.gz" if gzipped else "images")
    path.write_bytes(gzip.compress(content) if gzipped else content)
    for checksum in (sha(CONTENT), sha(content)):
        with pytest.raises(UserError, match=str(path)) as refused:
            read_idx(path, checksum)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", [16, -1])
def test_a_file_with_one_altered_pixel_is_refused_by_name(place: int, tmp_path: Path) -> None:
    path = tmp_path / "images"
    altered = bytearray(CONTENT)
    altered[place] ^= 1
    path.write_bytes(altered)
    with pytest.raises(UserError, match=f"{path} is not the published file"):
        read_idx(path, sha(CONTENT))


def test_a_gzip_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    whole = gzip.compress(CONTENT)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=str(path)):
            read_idx(path, sha(CONTENT))


def test_a_gzip_file_with_one_altered_byte_gives_the_published_content_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    whole = gzip.compress(CONTENT)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert torch.equal(read_idx(path, sha(CONTENT)), torch.from_numpy(PIXELS))  # the time stamp, say
        except UserError as error:
            assert str(path) in str(error)


def tiny_set(value: int, train: int = 40, test: int = 8) -> dict[str, bytes]:
    """The four files of a data set; image i is filled with `value` + i, and its label is i mod 10."""
    files = {}
    for prefix, count in (("train", train), ("t10k", test)):
        images = np.broadcast_to((value + np.arange(count, dtype=np.uint8))[:, None, None], (count, 28, 28))
        files[f"{prefix}-images-idx3-ubyte"] = idx_bytes(np.ascontiguousarray(images))
        files[f"{prefix}-labels-idx1-ubyte"] = idx_bytes((np.arange(count) % 10).astype(np.uint8))
    return files


def write_set(folder: Path, files: dict[str, bytes], gzipped: bool = True) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / (name + ".gz" if gzipped else name)).write_bytes(gzip.compress(content) if gzipped else content)


@pytest.fixture
def own_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], None]:
    """Makes fashion_mnist a set with these files' checksums: in tmp_path/data/FashionMNIST/raw, else in tmp_path/system."""

    def use(files: dict[str, bytes]) -> None:
        checksums = tuple(sha(files[name]) for name in idx.FILES)
        places = (tmp_path / "data" / "FashionMNIST" / "raw", tmp_path / "system")
        source = idx.SOURCES["fashion_mnist"]._replace(places=places, sha256=checksums)
        monkeypatch.setattr(idx, "DATA", tmp_path / "data")
        monkeypatch.setattr(idx, "SOURCES", idx.SOURCES | {"fashion_mnist": source})

    return use


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """torchvision with a FashionMNIST whose download is `downloads.act(folder)`; counts in `downloads.tried`."""

    def refuse(folder: Path) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried http://example/\nno network")

    state = SimpleNamespace(tried=0, act=refuse)

    def fashion(folder: str, download: bool) -> None:
        assert download
        state.tried += 1
        state.act(Path(folder))

    fake = SimpleNamespace(datasets=SimpleNamespace(FashionMNIST=fashion))
    monkeypatch.setattr(vision, "import_torchvision", lambda: fake)
    return state


def fills(images: Tensor) -> list[int]:
    return images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("gzipped", [False, True])
def test_data_comes_before_the_system_s_copy_and_both_before_a_download(
    gzipped: bool, tmp_path: Path, own_source: Any, downloads: SimpleNamespace
) -> None:
    files = tiny_set(100)
    own_source(files)
    write_set(tmp_path / "system", files, gzipped)
    train, test = idx.load("fashion_mnist")
    assert train["images"].shape == (40, 1, 28, 28) and train["images"].dtype == torch.uint8
    assert fills(train["images"]) == list(range(100, 140)) and fills(test["images"]) == list(range(100, 108))
    assert train["labels"].tolist() == [i % 10 for i in range(40)] and train["labels"].dtype == torch.int64

    write_set(tmp_path / "data" / "FashionMNIST" / "raw", other := tiny_set(7), gzipped)
    with pytest.raises(UserError, match="data/FashionMNIST/raw"):  # it is looked at first, and is not what was published
        idx.load("fashion_mnist")
    own_source(other)
    assert fills(idx.load("fashion_mnist")[0]["images"])[0] == 7
    assert downloads.tried == 0


def test_an_incomplete_folder_is_passed_over(tmp_path: Path, own_source: Any, downloads: SimpleNamespace) -> None:
    files = tiny_set(0)
    own_source(files)
    write_set(tmp_path / "data" / "FashionMNIST" / "raw", {name: files[name] for name in idx.FILES[:3]})
    write_set(tmp_path / "system", files)
    assert fills(idx.load("fashion_mnist")[1]["images"]) == list(range(8))
    assert downloads.tried == 0


def test_what_is_absent_is_downloaded_once(
    tmp_path: Path, own_source: Any, downloads: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    files = tiny_set(3)
    own_source(files)
    downloads.act = lambda folder: write_set(folder / "FashionMNIST" / "raw", files)
    for _ in range(2):
        assert fills(idx.load("fashion_mnist")[0]["images"])[0] == 3
    assert downloads.tried == 1
    assert capsys.readouterr().out.count("downloading") == 1
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["FashionMNIST"]


def test_a_failing_download_leaves_nothing_and_says_everything_that_helps(
    tmp_path: Path, own_source: Any, downloads: SimpleNamespace
) -> None:
    own_source(tiny_set(0))

    def fail_half_way(folder: Path) -> None:
        write_set(folder / "FashionMNIST" / "raw", tiny_set(0))
        raise OSError("connection\nreset")

    for act in (downloads.act, fail_half_way):
        downloads.act = act
        with pytest.raises(UserError) as refused:
            idx.load("fashion_mnist")
        message = str(refused.value)
        assert list((tmp_path / "data").iterdir()) == []
        assert "\n" not in message
        for helpful in (str(tmp_path / "data"), str(tmp_path / "system"), "download failed", "--data fashion_mnist-sample"):
            assert helpful in message
    assert "connection reset" in message


def test_a_stopped_download_leaves_nothing(tmp_path: Path, own_source: Any, downloads: SimpleNamespace) -> None:
    own_source(tiny_set(0))

    def stop(folder: Path) -> None:
        write_set(folder / "FashionMNIST" / "raw", tiny_set(0))
        raise KeyboardInterrupt

    downloads.act = stop
    with pytest.raises(KeyboardInterrupt):
        idx.load("fashion_mnist")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_lost_sample_is_not_looked_for_on_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, downloads: SimpleNamespace
) -> None:
    lost = idx.SOURCES["fashion_mnist-sample"]._replace(places=(tmp_path,))
    monkeypatch.setattr(idx, "SOURCES", idx.SOURCES | {"fashion_mnist-sample": lost})
    with pytest.raises(UserError, match="git checkout"):
        idx.load("fashion_mnist-sample")
    assert downloads.tried == 0


def config(data: str = "fashion_mnist", seed: int = 0) -> TrainConfig:
    return TrainConfig(out="unused", data=data, seed=seed, batch_size=16)


@pytest.fixture
def tiny(tmp_path: Path, own_source: Any) -> None:
    """fashion_mnist is 40 + 8 images, image i filled with i."""
    own_source(tiny_set(0))
    write_set(tmp_path / "system", tiny_set(0))


def numbers(splits: Splits) -> list[list[int]]:
    """Which images each split holds."""
    return [sorted(loader.dataset["images"][:, 0, 0, 0].tolist()) for loader in splits]


@pytest.mark.usefixtures("tiny")
def test_a_tenth_of_the_training_set_validates_and_is_not_trained_on() -> None:
    train, val, test = numbers(fashion_mnist(config()))
    assert len(val) == 4 and len(train) == 36
    assert sorted(train + val) == list(range(40))
    assert test == list(range(8))


@pytest.mark.usefixtures("tiny")
def test_the_seed_alone_draws_the_validation_set() -> None:
    first = numbers(fashion_mnist(config(seed=3)))
    torch.rand(5)
    assert first == numbers(fashion_mnist(config(seed=3)))
    assert first[1] != numbers(fashion_mnist(config(seed=4)))[1]


@pytest.mark.usefixtures("tiny")
def test_batches_are_standardised_and_only_training_is_augmented() -> None:
    def black(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        assert batch["images"].dtype == torch.uint8
        return batch | {"images": torch.zeros_like(batch["images"])}

    splits = fashion_mnist(config(), augment=black)
    assert splits.train.shuffle and not splits.val.shuffle and not splits.test.shuffle
    test = next(splits.test.batches())
    assert test["labels"].tolist() == list(range(8))
    expected = (torch.arange(8) / 255 - 0.2860) / 0.3530
    torch.testing.assert_close(test["images"][:, 0, 9, 9], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(next(splits.train.batches())["images"].unique(), torch.tensor([-0.2860 / 0.3530]))
    assert len(next(splits.val.batches())["images"].unique()) == 4


@pytest.mark.parametrize("data", ["mnist", "cifar10", "fashion_mnist-", "-sample", "", "fashion_mnist-sample-sample"])
def test_another_data_set_s_name_is_refused(data: str) -> None:
    with pytest.raises(UserError, match="fashion_mnist-sample"):
        fashion_mnist(config(data))


def test_mnist_has_no_sample() -> None:
    with pytest.raises(UserError, match="--data mnist-sample"):
        mnist(config("mnist-sample"))


def test_classes_have_names_of_their_own() -> None:
    assert len(idx.CLOTHES) == len(set(idx.CLOTHES)) == 10
    assert idx.DIGITS == tuple("0123456789")


def test_the_bundled_sample_is_the_first_10000_and_2000_of_fashion_mnist() -> None:
    train, test = idx.load("fashion_mnist-sample")
    assert train["images"].shape == (10_000, 1, 28, 28) and test["images"].shape == (2_000, 1, 28, 28)
    assert train["labels"][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # an ankle boot, as every tutorial prints it
    assert test["labels"][:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    for labels in (train["labels"], test["labels"]):
        assert labels.unique().tolist() == list(range(10))
