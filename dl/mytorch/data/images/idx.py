"""MNIST and Fashion-MNIST from their idx files (format: http://yann.lecun.com/exdb/mnist/).

- MNIST: LeCun, Bottou, Bengio & Haffner 1998. 60,000 + 10,000 digits of 28x28.
- Fashion-MNIST: Xiao, Rasul & Vollgraf 2017, https://arxiv.org/abs/1708.07747. The same sizes, ten kinds of clothing.
- fashion_mnist-sample: the first 10,000 + 2,000 of Fashion-MNIST, bundled with this repository.

Looked for in `data/`, then in system copies, then downloaded by torchvision.
"""

import math
import struct

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig
from dl.mytorch.data import sources
from dl.mytorch.data.augment import Transform, normalize
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.data.sources import Source

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
# Mean and std of the training sets.
STANDARD_CLOTHES = normalize([0.2860], [0.3530])
STANDARD_DIGITS = normalize([0.1307], [0.3081])
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _sha256(*checksums: str) -> dict[str, str]:
    """Of FILES, decompressed: the .gz of different packagers differ in their headers."""
    return dict(zip(FILES, checksums))


SOURCES = {
    "fashion_mnist": Source(
        ("fashion_mnist", "FashionMNIST/raw", "/usr/share/datasets/fashion-mnist"),
        _sha256(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        "apt install dataset-fashion-mnist, or train on the bundled sample: --data fashion_mnist-sample",
        lambda datasets, folder: datasets.FashionMNIST(folder, download=True),
    ),
    "fashion_mnist-sample": Source(
        ("fashion_mnist-sample",),
        _sha256(
            "ed2e37ed5a3a57d212141a69fe0a0de5a7126ffba14ac3f7e76f5f52cc04b1f0",
            "a69f2dad024ca220a8c4d85f621fdf929042d40c444abde2868903e9220ad517",
            "862035b0a96959b614c9574f4c2b0ae9584ca234813e8d6d7adb7838b12ca46b",
            "aa3f574d30afaf0d4d9da084a6f8541771e20693d6a97fae6e9a4953fca8f078",
        ),
        "git checkout data/fashion_mnist-sample brings it back",
    ),
    "mnist": Source(
        ("mnist", "MNIST/raw"),
        _sha256(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        "put its four .gz files there, or train on the bundled sample: --data fashion_mnist-sample",
        lambda datasets, folder: datasets.MNIST(folder, download=True),
    ),
}


def fashion_mnist(config: TrainConfig, augment: Transform | None = None, to_input: Transform = STANDARD_CLOTHES) -> Splits:
    """Fashion-MNIST, or its bundled sample if `config.data` ends in "-sample". A tenth of the training set validates.

    Batches: "images" (B, 1, 28, 28) after `to_input`; "labels" (B,) from 0 to 9. `augment` sees training images as bytes.
    Raises `UserError` when the set is unavailable or a file is not what was published.
    """
    names = ("fashion_mnist", "fashion_mnist-sample")
    return sources.splits(config, names, load, to_input, augment)


def mnist(config: TrainConfig, augment: Transform | None = None, to_input: Transform = STANDARD_DIGITS) -> Splits:
    """MNIST; otherwise like `fashion_mnist`."""
    return sources.splits(config, ("mnist",), load, to_input, augment)


def load(name: str) -> tuple[Batch, Batch]:
    """Return the training and the test set: "images" (N, 1, 28, 28) uint8 and "labels" (N,) int64, checksums verified."""
    content = sources.read(name, SOURCES[name])
    train_images, train_labels, test_images, test_labels = (parse_idx(content[file]) for file in FILES)
    return (
        {"images": train_images.unsqueeze(1), "labels": train_labels.long()},
        {"images": test_images.unsqueeze(1), "labels": test_labels.long()},
    )


def parse_idx(content: bytes) -> Tensor:
    """Return the uint8 array of an idx file: two zeros, the kind of number, the number of sizes, the sizes, the array.

    Raises `ValueError` when the sizes are not those of the content.
    """
    start = 4 + 4 * content[3]
    shape = struct.unpack(f">{content[3]}I", content[4:start].ljust(start - 4, b"\0"))
    if content[:3] != b"\0\0\x08" or math.prod(shape) != len(content) - start:
        raise ValueError(f"no idx file of bytes: its sizes are {shape}, and {len(content) - start} bytes follow")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)
