"""SVHN from its MATLAB files: Netzer, Wang, Coates, Bissacco, Wu & Ng 2011, "Reading Digits in Natural Images with
Unsupervised Feature Learning", http://ufldl.stanford.edu/housenumbers/. 73,257 + 26,032 digits cut from photographs of
house numbers, 32x32 in colour.

Looked for in `data/svhn/`, then in `data/`, where `torchvision.datasets.SVHN(root="data")` puts it, then downloaded by
torchvision. For non-commercial use only, so no sample is bundled.
"""

import os
import struct
import zlib
from typing import Any, Iterator

import numpy as np
import torch

from dl.mytorch.config import TrainConfig
from dl.mytorch.data import sources
from dl.mytorch.data.augment import Transform, normalize
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.data.sources import Source

STANDARD = normalize([0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970])  # mean and std of the training set


def _fetch(datasets: Any, folder: str) -> None:
    for split in ("train", "test"):
        url, name, md5 = datasets.SVHN.split_list[split]
        datasets.utils.download_url(url, os.path.join(folder, "svhn"), name, md5)


SOURCES = {
    "svhn": Source(
        ("svhn", ""),
        {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373", "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
        "put train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/ into data/svhn",
        _fetch,
    )
}


def svhn(config: TrainConfig, augment: Transform | None = None, to_input: Transform = STANDARD) -> Splits:
    """SVHN without its "extra" images. A tenth of the training set validates.

    Batches: "images" (B, 3, 32, 32) after `to_input`; "labels" (B,), the digits. `augment` sees training images as bytes.
    Mean and std as they are widely published. Raises `UserError` when the set is unavailable or a file is not
    what was published.
    """
    return sources.splits(config, ("svhn",), load, to_input, augment)


def load(name: str = "svhn") -> tuple[Batch, Batch]:
    """Return the training and the test set: "images" (N, 3, 32, 32) uint8 and "labels" (N,) int64, checksums verified."""
    train, test = (parse(content) for content in sources.read(name, SOURCES[name]).values())
    return train, test


def parse(content: bytes) -> Batch:
    """Return the images and labels of a file: arrays X (32, 32, 3, N) and y (N, 1), in which 10 stands for the digit 0."""
    arrays = dict(mat_arrays(content))
    images = np.ascontiguousarray(arrays["X"].transpose(3, 2, 0, 1))
    return {"images": torch.from_numpy(images), "labels": torch.from_numpy(arrays["y"].ravel().astype(np.int64) % 10)}


COMPRESSED, ARRAY = 15, 14
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8"}


def mat_arrays(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and values of the arrays in a MATLAB file, version 5: enough for SVHN, without SciPy.

    Format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf. A header of 128 bytes, then elements; an
    array is four of them inside another: flags, sizes, name, and the values, first index fastest. Raises `ValueError` for
    sizes that are not those of the content.
    """
    for kind, data in _elements(content[128:]):
        if kind == COMPRESSED:
            unpacked = zlib.decompressobj().decompress(data, sources.LARGEST)
            ((kind, data),) = _elements(unpacked)
        if kind == ARRAY:
            _, (_, sizes), (_, name), (number, values) = _elements(data)
            shape = np.frombuffer(sizes, "<i4")
            if number not in NUMBERS or (shape < 0).any():
                raise ValueError(f"an array of kind {number} and the sizes {shape.tolist()}")
            yield bytes(name).decode("ascii"), np.frombuffer(values, NUMBERS[number]).reshape(shape, order="F")


def _elements(content: bytes) -> Iterator[tuple[int, memoryview]]:
    """(kind, data) of each element: 4 bytes of kind, 4 of size, the data, and zeros up to a multiple of 8 bytes."""
    view = memoryview(content)
    while view:
        kind, size = struct.unpack_from("<II", view)
        if kind >> 16:  # the short form: kind and size in 2 bytes each, the data in the next 4
            yield kind & 0xFFFF, view[4 : 4 + (kind >> 16)]
            view = view[8:]
        else:
            if size > len(view) - 8:
                raise ValueError(f"an element of {size} bytes, of which {len(view) - 8} are there")
            yield kind, view[8 : 8 + size]
            view = view[8 + (size if kind == COMPRESSED else -(-size // 8) * 8) :]  # compressed data is not padded
