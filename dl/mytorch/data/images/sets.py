"""Sets of images by name: what a recipe asks for with `--data`, and how it changes the images while training."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError, flag, user_path
from dl.mytorch.data.augment import (
    Transform,
    auto_augment,
    compose,
    cutmix,
    either,
    mixup,
    random_crop,
    random_erasing,
    random_flip,
)
from dl.mytorch.data.images import cifar, folder, idx, mat
from dl.mytorch.data.images.cifar import HUNDRED, TEN, cifar10, cifar100
from dl.mytorch.data.images.folder import class_names, folder_splits
from dl.mytorch.data.images.idx import CLOTHES, DIGITS, fashion_mnist, mnist
from dl.mytorch.data.images.imagefile import centre_square
from dl.mytorch.data.images.mat import svhn
from dl.mytorch.data.loader import Splits
from dl.mytorch.data.split import names_file, read_names


class ImageSet(NamedTuple):
    """What a network has to know of the images that it will see."""

    channels: int
    size: int  # height and width in pixels
    classes: tuple[str, ...]  # names, in the order of the labels
    flip_invariant: bool  # an image flipped from left to right is still of its class, as no digit is
    standard: Transform  # bytes to what the network sees

    @property
    def small(self) -> bool:
        """Too small for the strides with which networks for ImageNet begin."""
        return self.size <= 64


IMAGE_SETS = {
    "fashion_mnist": ImageSet(1, 28, CLOTHES, True, idx.STANDARD_CLOTHES),
    "fashion_mnist-sample": ImageSet(1, 28, CLOTHES, True, idx.STANDARD_CLOTHES),
    "mnist": ImageSet(1, 28, DIGITS, False, idx.STANDARD_DIGITS),
    "cifar10": ImageSet(3, 32, TEN, True, cifar.STANDARD_TEN),
    "cifar100": ImageSet(3, 32, HUNDRED, True, cifar.STANDARD_HUNDRED),
    "svhn": ImageSet(3, 32, DIGITS, False, mat.STANDARD),
}
LARGEST = 8192  # pixels, height and width of an image
SOURCES = idx.SOURCES | cifar.SOURCES | mat.SOURCES
NAMES = ", ".join(IMAGE_SETS)


@dataclass(frozen=True)
class ImageConfig(TrainConfig):
    """What a recipe that classifies images can be told beside: which images, and how they are changed in training.

    Raises `UserError` for an unknown set, `ValueError` for an invalid value.
    """

    classifies: ClassVar[bool] = True  # the network's output for an image is a logit for each of the set's classes

    data: str = flag(
        "fashion_mnist",
        f"set of images: {NAMES}; or folder:PATH, a folder of images for each class, or tar:PATH, see data/tar.py",
    )
    own_shards: bool = flag(False, "with tar:, rank r of n reads shards r, r + n, ... alone: others may be on other machines")
    image_size: int = flag(224, "height and width that the images of a folder are brought to; other sets have their own")
    label_smoothing: float = flag(0.0, "label-smoothing epsilon: the part of each label that is spread over all classes")
    crop: int = flag(0, "pixels to pad by before a random crop to the old size; 0 = no crops")
    hflip: bool = flag(
        False, "flip half of the images horizontally; never where that changes classes, as of digits", alias="flip"
    )
    auto_augment: bool = flag(False, "AutoAugment: two changes of colour or shape for each image, see data/augment.py")
    erase: float = flag(0.0, "probability that a rectangle of an image becomes noise (Random Erasing)")
    mixup: float = flag(0.0, "alpha of mixup, which blends pairs of images and their labels; 0 = none")
    cutmix: float = flag(0.0, "alpha of CutMix, which pastes a part of another image; 0 = none; with --mixup, one of both")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")
        self._check("image_size", 1 <= self.image_size <= LARGEST, f"from 1 to {LARGEST}")
        self._check("own_shards", not self.own_shards or self.data.startswith("tar:"), "left out, as --data is not tar:PATH")
        self._check("erase", 0 <= self.erase <= 1, "from 0 to 1")
        for name in ("mixup", "cutmix"):
            value = getattr(self, name)
            self._check(name, value == 0 or 1e-3 <= value <= 1e3, "0, or from 0.001 to 1000")
        size = image_set(self).size
        self._check("crop", 0 <= self.crop <= size, f"from 0 to {size}, the size of the images")


def image_set(config: ImageConfig) -> ImageSet:
    """Return the set that `config.data` names. Raises `UserError` for a name that is none.

    Of "classes:FILE" there are no images, only the names that a run on somebody's own images keeps in its folder: all
    that its network needs, wherever the images are by then.
    """
    if file := config.data_path("classes:"):
        return ImageSet(3, config.image_size, read_names(file), True, folder.IMAGENET)
    if root := config.data_path("folder:"):
        return ImageSet(3, config.image_size, class_names(root), True, folder.IMAGENET)
    if root := config.data_path("tar:"):
        from dl.mytorch.data.images import tar  # not above: Python warns when `python -m` finds it imported already

        return ImageSet(3, config.image_size, tar.class_names(root), True, folder.IMAGENET)
    if config.data not in IMAGE_SETS:
        raise UserError(f"--data {config.data}: no such set of images; there are {NAMES}, folder:PATH, tar:PATH")
    return IMAGE_SETS[config.data]


def data_of_run(run: Path | str, data: str) -> str:
    """Return the `--data` of a run's config; where its images are gone, "classes:FILE" with the names that the run keeps."""
    kind, _, place = data.partition(":")
    names = names_file(run)
    return f"classes:{names}" if place and names.exists() and not user_path(place).exists() else data


def image_splits(config: ImageConfig, augment: Transform | None = None, to_input: Transform | None = None) -> Splits:
    """Return the images that `config.data` names, in training changed as the config says.

    The order: flip, crop, AutoAugment, erasing, `augment` (all of them see bytes), mixup or CutMix, and `to_input`, which
    makes of bytes what the network sees; default: standardised by the mean and deviation of the set.
    """
    about = image_set(config)
    to_input = to_input or about.standard
    steps = [random_flip()] if config.hflip and about.flip_invariant else []
    steps += [random_crop(config.crop)] if config.crop else []
    steps += [auto_augment(_policy(config, about))] if config.auto_augment else []
    steps += [random_erasing(config.erase)] if config.erase else []
    steps += [augment] if augment else []
    mixing = [mixup(config.mixup, len(about.classes))] if config.mixup else []
    mixing += [cutmix(config.cutmix, len(about.classes))] if config.cutmix else []
    steps += [either(*mixing)] if len(mixing) == 2 else mixing
    if root := config.data_path("folder:"):
        return folder_splits(config, root, config.image_size, compose(*steps), to_input)
    if root := config.data_path("tar:"):
        from dl.mytorch.data.images import tar

        return tar.tar_splits(config, root, config.image_size, compose(*steps), to_input, config.own_shards)
    if config.data_path("classes:"):
        raise UserError(f"{config.out} was trained on images that are not where they were, and this takes them")
    functions = {"fashion_mnist": fashion_mnist, "mnist": mnist, "cifar10": cifar10, "cifar100": cifar100, "svhn": svhn}
    return functions[config.data.removesuffix("-sample")](config, compose(*steps), to_input)


def prepare(image: Tensor, about: ImageSet) -> Tensor:
    """Return an image (3, H, W) of bytes as a network that was trained on such a set sees it: (1, channels, size, size)."""
    square = centre_square(image, about.size)[None]
    if about.channels == 1:
        red, green, blue = square.float().unbind(1)
        square = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]  # as Pillow makes grey, ITU-R 601
    return about.standard({"images": square}, torch.Generator())["images"]


def _policy(config: ImageConfig, about: ImageSet) -> str:
    """AutoAugment's policy for the set that is most like this one."""
    return "imagenet" if config.data not in IMAGE_SETS else "cifar10" if about.flip_invariant else "svhn"
