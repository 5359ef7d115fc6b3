"""MNIST and Fashion-MNIST from their idx files (format: http://yann.lecun.com/exdb/mnist/).

- MNIST: LeCun, Bottou, Bengio & Haffner 1998. 60,000 + 10,000 digits of 28x28.
- Fashion-MNIST: Xiao, Rasul & Vollgraf 2017, https://arxiv.org/abs/1708.07747. The same sizes, ten kinds of clothing.
- fashion_mnist-sample: the first 10,000 + 2,000 of Fashion-MNIST, bundled with this repository.

Looked for in `data/`, then in system copies, then downloaded by torchvision.
"""

import gzip
import hashlib
import os
import shutil
import struct
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.augment import Augment, compose, normalize
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.distributed import barrier, is_main

DATA = Path(__file__).parents[3] / "data"
DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class _Source(NamedTuple):
    places: tuple[Path, ...]  # folders to look in, first match wins
    torchvision: str  # class of torchvision.datasets that downloads it; "" for none
    sha256: tuple[str, str, str, str]  # of FILES, decompressed: the .gz of different packagers differ in their headers
    help: str


SOURCES = {
    "fashion_mnist": _Source(
        (DATA / "fashion_mnist", DATA / "FashionMNIST" / "raw", Path("/usr/share/datasets/fashion-mnist")),
        "FashionMNIST",
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        "apt install dataset-fashion-mnist, or train on the bundled sample: --data fashion_mnist-sample",
    ),
    "fashion_mnist-sample": _Source(
        (DATA / "fashion_mnist-sample",),
        "",
        (
            "ed2e37ed5a3a57d212141a69fe0a0de5a7126ffba14ac3f7e76f5f52cc04b1f0",
            "a69f2dad024ca220a8c4d85f621fdf929042d40c444abde2868903e9220ad517",
            "862035b0a96959b614c9574f4c2b0ae9584ca234813e8d6d7adb7838b12ca46b",
            "aa3f574d30afaf0d4d9da084a6f8541771e20693d6a97fae6e9a4953fca8f078",
        ),
        "git checkout data/fashion_mnist-sample brings it back",
    ),
    "mnist": _Source(
        (DATA / "mnist", DATA / "MNIST" / "raw"),
        "MNIST",
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        "put its four .gz files there, or train on the bundled sample: --data fashion_mnist-sample",
    ),
}


def fashion_mnist(config: TrainConfig, augment: Augment | None = None) -> Splits:
    """Fashion-MNIST, or its bundled sample if `config.data` ends in "-sample". A tenth of the training set validates.

    Batches: "images" (B, 1, 28, 28), standardised; "labels" (B,) from 0 to 9. `augment` sees training images as bytes.
    Raises `UserError` when the set is not to be had or a file is not what was published.
    """
    return _splits(config, "fashion_mnist", normalize([0.2860], [0.3530]), augment)


def mnist(config: TrainConfig, augment: Augment | None = None) -> Splits:
    """MNIST; otherwise like `fashion_mnist`."""
    return _splits(config, "mnist", normalize([0.1307], [0.3081]), augment)


def _splits(config: TrainConfig, name: str, to_input: Augment, augment: Augment | None) -> Splits:
    if config.data.removesuffix("-sample") != name or config.data not in SOURCES:
        raise UserError(f"--data {config.data}: this recipe's function loads {name}; there are {', '.join(SOURCES)}")
    train, test = load(config.data)
    order = torch.randperm(len(train["labels"]), generator=torch.Generator().manual_seed(config.seed))
    held_out = len(order) // 10
    val, train = ({k: v[part] for k, v in train.items()} for part in (order[:held_out], order[held_out:]))
    augmented = to_input if augment is None else compose(augment, to_input)
    return Splits(
        Loader(train, config.batch_size, shuffle=True, seed=config.seed, augment=augmented),
        Loader(val, config.batch_size, augment=to_input),
        Loader(test, config.batch_size, augment=to_input),
    )


def load(name: str) -> tuple[Batch, Batch]:
    """The training and the test set: "images" (N, 1, 28, 28) uint8 and "labels" (N,) int64, checksums verified."""
    source = SOURCES[name]
    if is_main() and find(source) is None:
        _download(name, source)
    barrier()  # the other ranks wait for the download of the first
    folder = find(source)
    if folder is None:
        raise UserError(f"{name} is not in {source.places[0]}: {source.help}")
    arrays = [read_idx(_file(folder, file), sha256) for file, sha256 in zip(FILES, source.sha256)]
    train_images, train_labels, test_images, test_labels = arrays
    return (
        {"images": train_images.unsqueeze(1), "labels": train_labels.long()},
        {"images": test_images.unsqueeze(1), "labels": test_labels.long()},
    )


def read_idx(path: Path, sha256: str) -> Tensor:
    """The uint8 array of an idx file, plain or gzipped.

    Raises `UserError` when the file is cut off, has a wrong header, or is not the published one (`sha256` of the
    decompressed content): what was altered is never trained on.
    """
    mend = "delete it, and get it again"
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is cut off or damaged ({error}): {mend}") from None
    dims = content[3] if len(content) >= 4 else 0
    if content[:3] != b"\0\0\x08" or not 1 <= dims <= 3 or len(content) < 4 + 4 * dims:
        raise UserError(f"{path} does not begin like an idx file of bytes: {mend}")
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    expected = 4 + 4 * dims + torch.Size(shape).numel()
    if len(content) != expected:
        raise UserError(f"{path} has {len(content)} bytes, its header {shape} asks for {expected}: {mend}")
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not the published file (its checksum differs): {mend}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dims).view(shape)


def _file(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else folder / f"{name}.gz"


def find(source: _Source) -> Path | None:
    """The folder on this machine that holds all files of a set, or None."""
    return next((p for p in source.places if all(_file(p, name).exists() for name in FILES)), None)


def _download(name: str, source: _Source) -> None:
    """Let torchvision fetch the set into data/, whole or not at all."""
    reason = "it cannot be downloaded"
    if source.torchvision:
        from dl.mytorch.vision import import_torchvision

        print(f"{name} is on none of the usual places of this machine; downloading it into {DATA}", flush=True)
        DATA.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DATA, prefix=".download-") as folder:
            try:
                getattr(import_torchvision().datasets, source.torchvision)(folder, download=True)
                shutil.rmtree(DATA / source.torchvision, ignore_errors=True)
                os.rename(Path(folder) / source.torchvision, DATA / source.torchvision)
                return
            except (OSError, RuntimeError) as error:
                reason = f"the download failed ({' '.join(str(error).split())})"
    places = ", ".join(str(place) for place in source.places)
    raise UserError(f"{name} was not found: looked in {places}; {reason}. What helps: {source.help}")
