"""Sets of images with boxes by name: what a detector asks for with `--data`."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from dl.mytorch.config import TrainConfig, UserError, flag
from dl.mytorch.data.augment import Transform, compose
from dl.mytorch.data.boxes import scenes
from dl.mytorch.data.boxes.batches import fit, padded, to_input
from dl.mytorch.data.boxes.changes import random_scale, random_symmetry
from dl.mytorch.data.images.folder import IMAGENET
from dl.mytorch.data.images.windows import jitter
from dl.mytorch.data.loader import Loader, Splits

NAMES = "scenes"


class BoxSet(NamedTuple):
    """What a network has to know of the images that it will see."""

    channels: int
    classes: tuple[str, ...]  # names, in the order of the labels
    has_masks: bool  # each box has the mask of its object
    standard: Transform  # bytes to what the network sees


@dataclass(frozen=True)
class BoxConfig(TrainConfig):
    """What a recipe that finds objects can be told beside: which images, and how they are changed in training."""

    data: str = flag("scenes", "set of images with boxes: scenes, clothes pasted into scenes")
    hflip: bool = flag(True, "mirror half of the training images left to right")
    vflip: bool = flag(False, "mirror half of them upside down")
    turns: bool = flag(False, "turn them by 0 to 3 quarters")
    zoom: float = flag(
        0.0, "largest change of size: images are scaled by 1 / (1 + zoom) to 1 + zoom, and cut to what they were"
    )
    jitter: float = flag(0.0, "largest change of contrast, and half of it of brightness, as a part of the full range")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("zoom", 0 <= self.zoom <= 9, "from 0 to 9")
        self._check("jitter", 0 <= self.jitter <= 1, "from 0 to 1")
        if self.data != "scenes":
            raise UserError(f"--data {self.data}: no such set of images with boxes; there are {NAMES}")


def box_set(config: BoxConfig) -> BoxSet:
    """Return the set that `config.data` names."""
    return BoxSet(3, scenes.CLASSES, True, IMAGENET)


def box_splits(config: BoxConfig, stride: int = 32) -> Splits:
    """Return the images that `config.data` names.

    Batches: "images" (B, C, H, W) after the set's `standard`, padded by 0 to the right and below, H and W multiples of
    `stride`; "sizes" (B, 2) real heights and widths; "boxes" (B, N, 4) as x0, y0, x1, y1 in pixels; "labels" (B, N), -1 where
    there is no box; "masks" (B, N, H, W) of bools if the set has them. In validation and test all batches have the height and
    width of the part's largest image, so that no result depends on who shares a batch.
    """
    about, parts = box_set(config), scenes.scenes()
    standard = to_input(about.standard)
    train = Loader(
        parts["train"],
        config.batch_size,
        shuffle=True,
        seed=config.seed,
        num_workers=config.num_workers,
        collate=padded,
        transform=compose(*_changes(config), lambda batch, _: fit(batch, stride), standard),
    )
    largest = (scenes.LARGEST, scenes.LARGEST)
    collate = partial(padded, stride=stride, canvas=largest)
    others = (Loader(parts[part], config.batch_size, collate=collate, transform=standard) for part in ("val", "test"))
    return Splits(train, *others)


def _changes(config: BoxConfig) -> list[Transform]:
    """Return what is drawn at random for the images of training."""
    steps = [jitter(config.jitter, config.jitter / 2)] if config.jitter else []
    steps += [random_symmetry(config.hflip, config.vflip, config.turns)] if config.hflip or config.vflip or config.turns else []
    return steps + ([random_scale(config.zoom)] if config.zoom else [])
