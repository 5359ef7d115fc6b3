"""Images in files with their boxes: what each reader of a format gives, and what is done to it for all of them."""

from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dl.mytorch.config import UserError
from dl.mytorch.data.images.imagefile import read_image, scaled
from dl.mytorch.data.loader import Batch
from dl.mytorch.layers.boxes import clip

# n boxes of an image, H height, W width


class BoxFile(NamedTuple):
    """An image and what is on it."""

    image: Path
    size: tuple[int, int]  # (width, height), as the beginning of the file states it
    boxes: Tensor  # (n, 4), in pixels of the file
    labels: Tensor  # (n,)
    crowd: Tensor  # (n,) of bools: neither trained on, nor counted in evaluation
    masks: Callable[[], Tensor] | None = None  # reads them, (n, H, W) of bools

    def chosen(self, kept: Tensor) -> "BoxFile":
        """Return the file with the boxes that `kept` (n,) says."""
        masks = None if self.masks is None else Chosen(self.masks, kept)
        return BoxFile(self.image, self.size, self.boxes[kept], self.labels[kept], self.crowd[kept], masks)


class Chosen(NamedTuple):
    """Some of the masks of an image. A class, since worker processes get no functions that are made on the way."""

    masks: Callable[[], Tensor]
    kept: Tensor

    def __call__(self) -> Tensor:
        return self.masks()[self.kept]


class BoxFolder(NamedTuple):
    """What a reader finds: classes in the order of the labels, "train" and more parts, and lines to print of what it fixed."""

    classes: tuple[str, ...]
    parts: dict[str, list[BoxFile]]
    notes: tuple[str, ...] = ()


class BoxFiles(Dataset):
    """{"images" (3, H, W) of bytes, "boxes", "labels", "crowd"}, "masks" too if there are some; see batches.py.

    `size` is what the shorter side is brought to, `max_size` what the longer one is at most; 0 = as it is. With `training`,
    crowds are left out.
    """

    def __init__(self, files: Sequence[BoxFile], size: int = 0, max_size: int = 0, training: bool = False) -> None:
        self.files = [file.chosen(~file.crowd) for file in files] if training else files
        self.size, self.max_size, self.training = size, max_size, training

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Batch:
        """Raises `UserError` for an image that is turned when it is opened, and for masks of another size."""
        file = self.files[i]
        example = {"images": read_image(file.image), "boxes": file.boxes, "labels": file.labels, "crowd": file.crowd}
        if tuple(example["images"].shape[:0:-1]) != file.size:
            raise UserError(f"{file.image} is turned by its EXIF data, its boxes may not be: save it upright")
        if file.masks is not None:
            example["masks"] = file.masks()
        if self.training:
            del example["crowd"]
        return resized(example, *self.shape(i))

    def shape(self, i: int) -> tuple[int, int]:
        """Return the height and width of an example."""
        width, height = self.files[i].size
        return new_size(height, width, self.size, self.max_size)

    def canvas(self) -> tuple[int, int]:
        """Return the largest height and the largest width of all examples."""
        heights, widths = zip(*(self.shape(i) for i in range(len(self))))
        return max(heights), max(widths)


def new_size(height: int, width: int, size: int, max_size: int = 0) -> tuple[int, int]:
    """Return (height, width) with a shorter side of `size`, and a longer one of `max_size` at most; 0 = as it is."""
    ratio = size / min(height, width) if size else 1.0
    if max_size:
        ratio = min(ratio, max_size / max(height, width))
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def resized(example: Batch, height: int, width: int) -> Batch:
    """Bring an example to a size; boxes follow the sizes after rounding, masks take the nearest pixel."""
    old = example["images"].shape[-2:]
    if (height, width) == tuple(old):
        return example
    ratio = torch.tensor([width / old[1], height / old[0]]).repeat(2)
    changed = {"images": scaled(example["images"], height, width), "boxes": example["boxes"] * ratio}
    if "masks" in example:
        masks = example["masks"]
        changed["masks"] = masks.new_zeros(len(masks), height, width)
        if len(masks):
            changed["masks"] = F.interpolate(masks[None].byte(), (height, width), mode="nearest-exact")[0].bool()
    return example | changed


def cleaned(parts: dict[str, list[BoxFile]]) -> tuple[dict[str, list[BoxFile]], tuple[str, ...]]:
    """Cut boxes at the edges of their images, drop those that are empty or outside. Returns one line for each that happened."""
    cut, dropped = [], []

    def clean(file: BoxFile) -> BoxFile:
        width, height = file.size
        boxes = clip(file.boxes, height, width)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
        cut.extend([file.image] * int((boxes[kept] != file.boxes[kept]).any(1).sum()))
        dropped.extend([file.image] * int((~kept).sum()))
        file = file._replace(boxes=boxes)
        return file if kept.all() else file.chosen(kept)

    parts = {part: [clean(file) for file in files] for part, files in parts.items()}
    happened = (
        (cut, "reach out of their image and are cut at its edge"),
        (dropped, "are empty or outside of their image, dropped"),
    )
    return parts, tuple(f"{len(where)} boxes {what} (first: {where[0]})" for where, what in happened if where)
