"""Data sets, each by name, and the Loader that cuts them into batches."""

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.augment import Augment
from dl.mytorch.data.idx import CLOTHES, DIGITS, fashion_mnist, mnist
from dl.mytorch.data.loader import Batch, Loader, Splits

__all__ = ["Batch", "Loader", "Splits", "class_names", "fashion_mnist", "image_splits", "mnist"]

_IMAGE_SETS = {"fashion_mnist": (fashion_mnist, CLOTHES), "mnist": (mnist, DIGITS)}


def image_splits(config: TrainConfig, augment: Augment | None = None) -> Splits:
    """The image set that `config.data` names: for a recipe that offers several."""
    return _named(config.data)[0](config, augment)


def class_names(data: str) -> tuple[str, ...]:
    """The names of the classes of an image set, in the order of its labels."""
    return _named(data)[1]


def _named(data: str) -> tuple:
    name = data.removesuffix("-sample")
    if name not in _IMAGE_SETS:
        raise UserError(f"--data {data}: no such image set; there are {', '.join(_IMAGE_SETS)}")
    return _IMAGE_SETS[name]
