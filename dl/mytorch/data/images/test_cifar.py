"""CIFAR files: read as written, with no code run; altered ones are refused. All on small files of the exact format."""

import hashlib
import os
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import cifar10, cifar100, sources
from dl.mytorch.data.images import cifar


def pickled(data: np.ndarray, labels: list[int], key: str = "labels") -> bytes:
    """The pickle that Python 2 and its NumPy wrote: protocol 2, texts and arrays as strings of bytes. data: (N, 3072)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"  # empty; then its state
    array += b"M" + len(data).to_bytes(2, "little") + b"M\x00\x0c\x86"  # shape (N, 3072)
    array += b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    array += b"T" + data.size.to_bytes(4, "little") + data.tobytes() + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    batch = text(b"batch_label") + text(b"a batch") + b"s" + text(key.encode()) + numbers + b"s"
    coarse = text(b"coarse_labels") + b"](" + b"K\x07" * len(labels) + b"es" if key == "fine_labels" else b""
    return b"\x80\x02}" + coarse + batch + text(b"data") + array + b"s."


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def install(name: str, folder: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the files of a small set into `folder`, and make it the published one."""
    checksums = {file: hashlib.md5(content).hexdigest() for file, content in contents.items()}
    monkeypatch.setitem(cifar.SOURCES, name, cifar.SOURCES[name]._replace(places=(folder,), files=checksums))
    for file, content in contents.items():
        (folder / file).write_bytes(content)


def config(data: str) -> TrainConfig:
    return TrainConfig(out="unused", data=data, batch_size=16)


def test_rows_are_three_planes_of_32_lines() -> None:
    data = rows(2, seed=0)
    batch = cifar.parse(pickled(data, [3, 9]))
    assert batch["images"].dtype == torch.uint8 and batch["labels"].tolist() == [3, 9]
    for i, channel, y, x in [(0, 0, 0, 1), (1, 2, 31, 30), (0, 1, 5, 17)]:
        assert batch["images"][i, channel, y, x] == data[i, channel * 1024 + y * 32 + x]


@pytest.mark.filterwarnings("ignore:dtype")
def test_the_small_files_are_what_python_s_own_reader_takes_them_for() -> None:
    data = rows(3, seed=0)
    entries = pickle.loads(pickled(data, [1, 2, 3]), encoding="latin1")
    assert (entries["data"] == data).all() and entries["labels"] == [1, 2, 3] and entries["batch_label"] == "a batch"


def test_cifar10_is_five_files_in_order_and_one_for_the_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {f"data_batch_{i}": pickled(rows(4, i), [i] * 4) for i in range(1, 6)}
    install("cifar10", tmp_path, parts | {"test_batch": pickled(rows(3, 6), [7, 8, 9])}, monkeypatch)
    train, test = cifar.load("cifar10")
    assert train["labels"].tolist() == [i for i in range(1, 6) for _ in range(4)]
    expected = np.concatenate([rows(4, i) for i in range(1, 6)])
    assert (train["images"].flatten(1).numpy() == expected).all()
    assert test["labels"].tolist() == [7, 8, 9] and test["labels"].dtype == torch.int64
    splits = cifar10(config("cifar10"))
    assert [loader.num_examples for loader in splits] == [18, 2, 3]
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]))
    torch.testing.assert_close(next(splits.test.batches())["images"], (test["images"] / 255 - mean) / std, atol=1e-5, rtol=0)


def test_cifar100_has_its_fine_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: pickled(rows(20, i), [99 - i] * 20, "fine_labels") for i, name in enumerate(("train", "test"))}
    install("cifar100", tmp_path, parts, monkeypatch)
    splits = cifar100(config("cifar100"))
    assert [next(loader.batches())["labels"].unique().tolist() for loader in splits] == [[99], [99], [98]]
    assert [loader.num_examples for loader in splits] == [18, 2, 20]


def test_an_altered_or_short_file_is_refused_before_it_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: pickled(rows(4, 0), [1] * 4, "fine_labels") for name in ("train", "test")}
    install("cifar100", tmp_path, parts, monkeypatch)
    monkeypatch.setattr(cifar, "parse", lambda content: pytest.fail("was unpickled"))
    for damaged in (parts["test"][:-1], b"", parts["test"][:200] + b"?" + parts["test"][201:]):
        (tmp_path / "test").write_bytes(damaged)
        with pytest.raises(UserError, match=f"{tmp_path / 'test'} is not the published file"):
            cifar100(config("cifar100"))


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil-was-here",)


def test_a_pickle_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="mkdir has no place"):
        cifar.parse(pickle.dumps({"data": Evil()}))
    assert list(tmp_path.iterdir()) == []


def test_checksums_and_addresses_are_torchvision_s(torchvision: ModuleType) -> None:
    datasets = torchvision.datasets
    for name, published in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        assert cifar.SOURCES[name].files == dict(published.train_list + published.test_list)
        assert published.url in cifar.SOURCES[name].help
        assert cifar.SOURCES[name].folders[-1].name == published.base_folder


def test_a_download_unpacks_the_checked_archive(monkeypatch: pytest.MonkeyPatch, torchvision: ModuleType) -> None:
    datasets, calls = torchvision.datasets, []
    monkeypatch.setattr(datasets.utils, "download_and_extract_archive", lambda *a, **k: calls.append((a, k)))
    for name in ("cifar10", "cifar100"):
        fetch = cifar.SOURCES[name].fetch
        assert fetch is not None
        fetch(datasets, "folder")
    assert calls[0] == ((datasets.CIFAR10.url, "folder"), {"md5": datasets.CIFAR10.tgz_md5})
    assert calls[1] == ((datasets.CIFAR100.url, "folder"), {"md5": datasets.CIFAR100.tgz_md5})


def test_classes_have_names_in_the_order_of_labels() -> None:
    assert len(set(cifar.TEN)) == 10 and len(set(cifar.HUNDRED)) == 100
    assert cifar.HUNDRED == tuple(sorted(cifar.HUNDRED))


@pytest.mark.slow
def test_the_mean_and_deviation_are_those_of_the_training_set() -> None:
    if sources.find(cifar.SOURCES["cifar10"]) is None:
        pytest.skip("CIFAR-10 is not on this machine")
    train, test = cifar.load("cifar10")
    assert train["images"].shape == (50_000, 3, 32, 32) and test["images"].shape == (10_000, 3, 32, 32)
    assert train["labels"].bincount().tolist() == [5000] * 10
    pixels = train["images"].double() / 255
    means = pixels.mean((0, 2, 3))
    deviations = (pixels - means[:, None, None]).square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=5e-5, rtol=0)
    torch.testing.assert_close(deviations, torch.tensor([0.2470, 0.2435, 0.2616]).double(), atol=5e-5, rtol=0)
