"""Sets of images with boxes by name: what a detector asks for with `--data`."""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError, flag
from dl.mytorch.data.augment import Transform, compose
from dl.mytorch.data.boxes import bccd, scenes
from dl.mytorch.data.boxes.batches import fit, padded, to_input
from dl.mytorch.data.boxes.changes import random_scale, random_symmetry
from dl.mytorch.data.boxes.coco import read_coco
from dl.mytorch.data.boxes.files import BoxFiles, BoxFolder, new_size
from dl.mytorch.data.boxes.masks import penn_fudan, read_masks
from dl.mytorch.data.boxes.voc import read_voc
from dl.mytorch.data.images.folder import IMAGENET
from dl.mytorch.data.images.imagefile import scaled
from dl.mytorch.data.images.windows import jitter
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.sources import held_out
from dl.mytorch.data.split import check_split, names_file, read_names
from dl.mytorch.distributed import is_main

KINDS = {"voc:": read_voc, "coco:": read_coco, "masks:": read_masks}  # of folders, and what reads them
LARGEST = 8192  # pixels, height and width of an image


class BoxSet(NamedTuple):
    """What a network has to know of the images that it will see."""

    channels: int
    classes: tuple[str, ...]  # names, in the order of the labels
    has_masks: bool  # each box has the mask of its object
    standard: Transform  # bytes to what the network sees


NAMED = {
    "scenes": BoxSet(3, scenes.CLASSES, True, IMAGENET),
    **dict.fromkeys(bccd.SOURCES, BoxSet(3, bccd.CLASSES, False, IMAGENET)),
    "penn_fudan": BoxSet(3, ("person",), True, IMAGENET),
}


@dataclass(frozen=True)
class BoxConfig(TrainConfig):
    """What a recipe that finds objects can be told beside: which images, and how they are changed in training."""

    data: str = flag("scenes", "images with boxes: scenes, bccd, bccd-sample, penn_fudan, voc:PATH, coco:PATH or masks:PATH")
    size: int = flag(0, "the shorter side that images in files are brought to, in pixels; 0 = as it is")
    max_size: int = flag(0, "what their longer side is at most; 0 = any")
    hflip: bool = flag(True, "mirror half of the training images left to right")
    vflip: bool = flag(False, "mirror half of them upside down")
    turns: bool = flag(False, "turn them by 0 to 3 quarters")
    zoom: float = flag(
        0.0, "largest change of size: images are scaled by 1 / (1 + zoom) to 1 + zoom, and cut to what they were"
    )
    jitter: float = flag(0.0, "largest change of contrast, and half of it of brightness, as a part of the full range")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("size", "max_size"):
            value = getattr(self, name)
            self._check(name, value == 0 or 8 <= value <= LARGEST, f"0, or from 8 to {LARGEST}")
        self._check("zoom", 0 <= self.zoom <= 9, "from 0 to 9")
        self._check("jitter", 0 <= self.jitter <= 1, "from 0 to 1")
        if self.data not in NAMED and not self.data.startswith(tuple(KINDS)):
            kinds = (f"{kind}PATH" for kind in KINDS)
            raise UserError(f"--data {self.data}: no such set of images with boxes; there are {', '.join([*NAMED, *kinds])}")


def box_set(config: BoxConfig) -> BoxSet:
    """Return the set that `config.data` names. Of a run whose images are gone, the classes are those that it recorded.

    Raises `UserError` for a folder that is not as its reader wants it.
    """
    if config.data in NAMED:
        return NAMED[config.data]
    kind, root = _folder(config)
    if not root.is_dir() and names_file(config.out).exists():
        return BoxSet(3, read_names(names_file(config.out)), kind == "masks:", IMAGENET)
    found = KINDS[kind](root)
    return BoxSet(3, found.classes, has_masks(found), IMAGENET)


def box_splits(config: BoxConfig, stride: int = 32) -> Splits:
    """Return the images that `config.data` names.

    Batches: "images" (B, C, H, W) after the set's `standard`, padded by 0 to the right and below, H and W multiples of
    `stride`; "sizes" (B, 2) real heights and widths; "boxes" (B, N, 4) as x0, y0, x1, y1 in pixels; "labels" (B, N), -1 where
    there is no box; "masks" (B, N, H, W) of bools if the set has them. In validation and test all batches have the height and
    width of the part's largest image, so that no result depends on who shares a batch.
    """
    if config.data == "scenes":
        classes, sets, split = (), scenes.scenes(), None
    else:
        classes, sets, split = _of_files(config)
        check_split(split, config)
    standard = to_input(IMAGENET)
    changes = compose(*_changes(config), lambda batch, _: fit(batch, stride), standard)
    seed, workers = config.seed, config.num_workers
    train = Loader(
        sets["train"], config.batch_size, shuffle=True, seed=seed, num_workers=workers, collate=padded, transform=changes
    )
    others = []
    for part in ("val", "test"):
        collate = partial(padded, stride=stride, canvas=sets[part].canvas())
        others.append(Loader(sets[part], config.batch_size, num_workers=workers, collate=collate, transform=standard))
    return Splits(train, *others, names=classes, split=split)


def prepare(image: Tensor, config: BoxConfig, stride: int = 32) -> Batch:
    """Return an image (3, H, W) of bytes as a batch of one, as a network sees those in files: "images" and "sizes".

    Boxes that are found in it are in pixels of its new size: `image.shape[1:]` / "sizes" brings them back.
    """
    height, width = new_size(*image.shape[1:], config.size, config.max_size)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    batch = padded([{"images": scaled(image, height, width), **none}], stride)
    return {name: to_input(IMAGENET)(batch, torch.Generator())[name] for name in ("images", "sizes")}


def has_masks(found: BoxFolder) -> bool:
    """Return whether all images have masks of their boxes."""
    return all(file.masks is not None for files in found.parts.values() for file in files)


def _folder(config: BoxConfig) -> tuple[str, Path]:
    """Return the kind of folder, as "voc:", and where it is."""
    kind = next(kind for kind in KINDS if config.data.startswith(kind))
    return kind, config.data_path(kind)


def _of_files(config: BoxConfig) -> tuple[tuple[str, ...], dict[str, BoxFiles], dict[str, list[str]]]:
    """Return classes, parts and the names of the images in each."""
    if config.data in bccd.SOURCES:
        found = bccd.bccd(config.data)
    elif config.data == "penn_fudan":
        found = penn_fudan()
    else:
        kind, root = _folder(config)
        found = KINDS[kind](root)
    if is_main():
        for note in found.notes:
            print(f"--data {config.data}: {note}", flush=True)
    parts = held_out(found.parts, config.seed)
    if empty := [part for part, files in parts.items() if not files]:
        raise UserError(f"--data {config.data} has too few images: none are left for {' and '.join(empty)}")
    top = os.path.commonpath([file.image.parent for files in parts.values() for file in files])
    split = {part: [file.image.relative_to(top).as_posix() for file in files] for part, files in parts.items()}
    options = {"size": config.size, "max_size": config.max_size}
    sets = {part: BoxFiles(files, training=part == "train", **options) for part, files in parts.items()}
    return found.classes, sets, split


def _changes(config: BoxConfig) -> list[Transform]:
    """Return what is drawn at random for the images of training."""
    steps = [jitter(config.jitter, config.jitter / 2)] if config.jitter else []
    steps += [random_symmetry(config.hflip, config.vflip, config.turns)] if config.hflip or config.vflip or config.turns else []
    return steps + ([random_scale(config.zoom)] if config.zoom else [])
