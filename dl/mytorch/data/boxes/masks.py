"""Images whose objects have masks, `--data masks:PATH`, and the pedestrians of Penn and Fudan, which come so.

PATH/images has the images, PATH/masks for each a mask, as in images/masks.py; but each value of a mask is one object, and 0 is
none. 255 does not count, except in masks of 0 and 255 alone. All objects are of one class; the box of each is the smallest
around its pixels.
"""

from functools import partial
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.boxes.batches import mask_boxes
from dl.mytorch.data.boxes.files import BoxFile, BoxFolder
from dl.mytorch.data.images.imagefile import image_size, read_values
from dl.mytorch.data.images.masks import IMAGES, MASKS, MaskFile, check_pairs, listed
from dl.mytorch.data.images.windows import IGNORE
from dl.mytorch.data.sources import Source

NAMES = (*IMAGES, "PNGImages"), (*MASKS, "PedMasks")  # of the folders
PEDESTRIANS = 423  # in 170 images; the page of the set says 345, before some were added
TEST, VAL = 50, 15  # images of Penn-Fudan, drawn once; there are 50 to test on in the published use too
PENN_FUDAN = Source(
    ("penn_fudan",),
    dict.fromkeys(f"PedMasks/{name}_mask.png" for name in ("FudanPed00001", "FudanPed00074", "PennPed00001", "PennPed00096")),
    "put the folders PNGImages and PedMasks of https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip there",
    lambda _, folder: sources.unpack(
        "https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip", "PennFudanPed/", Path(folder) / "penn_fudan"
    ),
)


def read_masks(root: Path) -> BoxFolder:
    """Return the images and objects in a folder.

    Raises `UserError` for an image without a mask, and for one with a mask of another size.
    """
    parts = listed(root, NAMES)
    check_pairs([file for files in parts.values() for file in files])
    found = {part: [_file(file) for file in files] for part, files in parts.items()}
    if not any(len(file.labels) for file in found["train"]):
        raise UserError(f"--data masks:{root}: no training image has an object, a value above 0 in its mask")
    return BoxFolder(("object",), found)


def penn_fudan() -> BoxFolder:
    """Wang, Shi, Song & Shen 2007: 170 images of streets with 423 pedestrians, 105 to train on, 15 and 50.

    Raises `UserError` when the set is unavailable or not complete.
    """
    folder = sources.get("penn_fudan", PENN_FUDAN)
    files = read_masks(folder).parts["train"]
    count = sum(len(file.labels) for file in files)
    if (len(files), count) != (170, PEDESTRIANS):
        raise UserError(f"{folder} has {len(files)} images with {count} pedestrians, not 170 with {PEDESTRIANS}: get it again")
    order = torch.randperm(170, generator=torch.Generator().manual_seed(0)).tolist()
    held = {"test": sorted(order[:TEST]), "val": sorted(order[TEST : TEST + VAL]), "train": sorted(order[TEST + VAL :])}
    return BoxFolder(("person",), {part: [files[i] for i in places] for part, places in held.items()})


def object_masks(path: Path, numbers: Sequence[int]) -> Tensor:
    """Return the masks (n, H, W) of the objects with these numbers."""
    return _masks(read_values(path), numbers)


def _masks(values: Tensor, numbers: Sequence[int]) -> Tensor:
    return values == torch.tensor(numbers, dtype=torch.uint8)[:, None, None]


def _file(file: MaskFile) -> BoxFile:
    values = read_values(file.mask)
    found = values.flatten().long().bincount().nonzero().flatten().tolist()
    numbers = [value for value in found if value and (value != IGNORE or set(found) <= {0, IGNORE})]
    labels = torch.zeros(len(numbers), dtype=torch.long)
    boxes, masks = mask_boxes(_masks(values, numbers)), partial(object_masks, file.mask, numbers)
    return BoxFile(file.image, image_size(file.image), boxes, labels, labels.bool(), masks)
