"""CIFAR-10 and CIFAR-100: Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny Images",
https://www.cs.toronto.edu/~kriz/cifar.html. 50,000 + 10,000 colour photographs of 32x32 each.

Looked for in `data/`, then downloaded by torchvision. No licence is stated, so no sample is bundled.
"""

import io
import pickle
from typing import Any

import numpy as np
import torch

from dl.mytorch.config import TrainConfig
from dl.mytorch.data import sources
from dl.mytorch.data.augment import Transform, normalize
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.data.sources import Source

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HUNDRED = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
    forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
    willow_tree wolf woman worm""".split()
)
# Mean and std of the training sets.
STANDARD_TEN = normalize([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
STANDARD_HUNDRED = normalize([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762])
SOURCES = {
    "cifar10": Source(
        ("cifar-10-batches-py",),
        {
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        "unpack https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz in data/",
        lambda datasets, folder: _unpack(datasets, folder, datasets.CIFAR10),
    ),
    "cifar100": Source(
        ("cifar-100-python",),
        {"train": "16019d7e3df5f24257cddd939b257f8d", "test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "unpack https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz in data/",
        lambda datasets, folder: _unpack(datasets, folder, datasets.CIFAR100),
    ),
}


def cifar10(config: TrainConfig, augment: Transform | None = None, to_input: Transform = STANDARD_TEN) -> Splits:
    """CIFAR-10. A tenth of the training set validates.

    Batches: "images" (B, 3, 32, 32) after `to_input`; "labels" (B,). `augment` sees training images as bytes.
    Raises `UserError` when the set is unavailable or a file is not what was published.
    """
    return sources.splits(config, ("cifar10",), load, to_input, augment)


def cifar100(config: TrainConfig, augment: Transform | None = None, to_input: Transform = STANDARD_HUNDRED) -> Splits:
    """CIFAR-100; otherwise like `cifar10`. Mean and std: https://github.com/weiaicunzai/pytorch-cifar100."""
    return sources.splits(config, ("cifar100",), load, to_input, augment)


def load(name: str) -> tuple[Batch, Batch]:
    """Return the training and the test set: "images" (N, 3, 32, 32) uint8 and "labels" (N,) int64, checksums verified."""
    *train, test = (parse(content) for content in sources.read(name, SOURCES[name]).values())
    return {key: torch.cat([part[key] for part in train]) for key in test}, test


def parse(content: bytes) -> Batch:
    """Return the images and the (fine) labels of a file, which is a pickle. Raises `UnpicklingError` where it asks for code."""
    entries = _Arrays(io.BytesIO(content), encoding="bytes").load()
    images = torch.from_numpy(np.array(entries[b"data"])).view(-1, 3, 32, 32)  # a row: 1024 of red, of green, of blue
    return {"images": images, "labels": torch.tensor(entries.get(b"fine_labels") or entries[b"labels"])}


class _Arrays(pickle.Unpickler):
    """Reads arrays, numbers and text; any other thing that a pickle may ask for is refused."""

    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # newer NumPy has it at another place
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): lambda kind, *_: {b"u1": np.dtype("u1")}[kind],  # of arrays of bytes, and of no others
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of images")
        return self.ALLOWED[module, name]


def _unpack(datasets: Any, folder: str, published: Any) -> None:
    datasets.utils.download_and_extract_archive(published.url, folder, md5=published.tgz_md5)
