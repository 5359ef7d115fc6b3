"""Images as an encoder learns from them without labels: two random views of each."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from dl.mytorch.config import flag
from dl.mytorch.data import Batch, ImageConfig, Loader, Splits, image_set, image_splits
from dl.mytorch.data.augment import Transform, compose, random_flip
from dl.mytorch.data.views import color_jitter, random_blur, random_grey, random_resized_crop


@dataclass(frozen=True)
class ViewsConfig(ImageConfig):
    """What a recipe that learns from views can be told. Raises `UserError` for what needs labels, or is no part of a view."""

    classifies: ClassVar[bool] = False

    data: str = "cifar10"
    hflip: bool = True
    min_scale: float = flag(0.08, "least share of an image's area that a view shows")
    color: float = flag(0.5, "strength of the colour jitter, on 4 of 5 views; 0 = none")
    grey: float = flag(0.2, "probability that a view has no colour")
    blur: float = flag(0.0, "probability that a view is blurred")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("label_smoothing", "crop", "erase", "auto_augment", "mixup", "cutmix"):
            self._check(name, not getattr(self, name), "off: views are made by --min-scale, --color, --grey, --blur, --hflip")
        self._check("min_scale", 0 < self.min_scale <= 1, "above 0 and at most 1")
        self._check("color", 0 <= self.color <= 1, "from 0 to 1")
        for name in ("grey", "blur"):
            self._check(name, 0 <= getattr(self, name) <= 1, "from 0 to 1")


def make_view(config: ViewsConfig) -> Transform:
    """Return what makes a random view of an image, as the network sees it. SimCLR, appendix A: crop, flip, colours, grey, blur.

    The kernel of the blur is a tenth of the image.
    """
    about, strength = image_set(config), config.color
    steps = [random_resized_crop((config.min_scale, 1.0))]
    steps += [random_flip()] if config.hflip and about.flip_invariant else []
    steps += [color_jitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength, 0.8)] if strength else []
    steps += [random_grey(config.grey)] if config.grey else []
    steps += [random_blur(config.blur, about.size // 20 * 2 + 1)] if config.blur else []
    return compose(*steps, about.standard)


def two_views(view: Transform, plain: Transform | None = None) -> Transform:
    """Return "first" and "second" (B, C, H, W), two views of each image; "images" as `plain` makes them, if there is one."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        twice = {"images": torch.cat([batch["images"], batch["images"]])}  # so that all is drawn for each view
        first, second = view(twice, generator)["images"].chunk(2)
        views = {"first": first, "second": second, "labels": batch["labels"]}
        return views if plain is None else views | {"images": plain(batch, generator)["images"]}

    return apply


def view_splits(config: ViewsConfig, train: Transform, evaluation: Transform, data: Splits | None = None) -> Splits:
    """Return the images that `config.data` names, or those of `data`, bytes, as `train` and `evaluation` make them."""
    data = data or image_splits(replace(config, hflip=False), to_input=_as_bytes)
    for loader in filter(None, data):
        step = train if loader is data.train else evaluation
        loader.transform = compose(loader.transform, step) if loader.transform else step
    return data


def bank(config: ViewsConfig, data: Splits) -> Loader:
    """Return the training images as they are."""
    train = data.train
    loader = Loader(train.dataset, 2 * train.batch_size, num_workers=train.num_workers, transform=image_set(config).standard)
    loader.collate = train.collate
    return loader


def _as_bytes(batch: Batch, generator: torch.Generator) -> Batch:
    return batch
