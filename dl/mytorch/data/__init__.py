"""Data sets, each by name, and the Loader that cuts them into batches.

Readers of images and of text are imported when they are first used: training on tensors needs none of them.
"""

import importlib
from typing import Any

from dl.mytorch.data.loader import Batch as Batch
from dl.mytorch.data.loader import Loader as Loader
from dl.mytorch.data.loader import Splits as Splits

_READERS = {
    **dict.fromkeys(("ImageConfig", "ImageSet", "data_of_run", "image_set", "image_splits", "prepare"), "images.sets"),
    **dict.fromkeys(("centre_square", "read_image"), "images.folder"),
    **dict.fromkeys(("cifar10", "cifar100"), "images.cifar"),
    **dict.fromkeys(("fashion_mnist", "mnist"), "images.idx"),
    **{"svhn": "images.mat", "Vocabulary": "text.vocabulary", "shakespeare": "text.shakespeare"},
    **{"translation": "text.translation", "wikitext2": "text.wikitext2"},
}


def __getattr__(name: str) -> Any:
    if name not in _READERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_READERS[name]}"), name)
