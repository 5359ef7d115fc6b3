"""Scenes: clothes of Fashion-MNIST pasted at one to three times their size on a patterned ground, with exact boxes and masks.

A set that is never downloaded and that a small detector learns in minutes. Each scene is a function of its number alone, the
same in every run; those to validate and to test on show clothes that training never sees. A mask is what is visible of an
item, its box the smallest around that; an item of which less than a quarter is visible does not count.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dl.mytorch.data.boxes.batches import mask_boxes
from dl.mytorch.data.images import idx
from dl.mytorch.data.loader import Batch

CLASSES = ("top", "trousers", "dress", "shoe", "bag")
KIND = (0, 1, 0, 2, 0, 3, 0, 3, 4, 3)  # of each of Fashion-MNIST's ten classes
COUNTS = {"train": 4000, "val": 250, "test": 500}
SMALLEST, LARGEST = 96, 128  # height and width of a scene in pixels
MOST = 5  # items in a scene
EMPTY = 0.1  # the share of scenes without any
VISIBLE = 0.25  # the least share of an item that has to be visible for it to count


class Scenes(Dataset):
    """{"images" (3, H, W) of bytes, "boxes" (n, 4), "labels" (n,), "masks" (n, H, W)}, from number `first` on.

    `clothes` (M, 28, 28) are bytes, `labels` (M,) those of Fashion-MNIST.
    """

    def __init__(self, clothes: Tensor, labels: Tensor, first: int, count: int) -> None:
        self.first, self.count = first, count
        kinds = torch.tensor(KIND)[labels]
        self.clothes = [clothes[kinds == kind].float() / 255 for kind in range(len(CLASSES))]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> Batch:
        return scene(self.clothes, torch.Generator().manual_seed(self.first + i))

    def canvas(self) -> tuple[int, int]:
        """Return the largest height and the largest width of all scenes."""
        return LARGEST, LARGEST


def scenes() -> dict[str, Scenes]:
    """Return the three parts, made of the bundled sample of Fashion-MNIST, so that they are the same on every machine."""
    train, test = idx.load("fashion_mnist-sample")
    items = {"train": slice(0, 9000), "val": slice(9000, 10000), "test": slice(0, 2000)}
    return {
        part: Scenes(source["images"][items[part], 0], source["labels"][items[part]], first, COUNTS[part])
        for part, source, first in (("train", train, 0), ("val", train, 1_000_000), ("test", test, 2_000_000))
    }


def scene(clothes: list[Tensor], generator: torch.Generator) -> Batch:
    """Return one example, drawn by `generator`; `clothes` are greys (M, 28, 28) from 0 to 1 of each class."""
    height, width = torch.randint(SMALLEST, LARGEST + 1, (2,), generator=generator).tolist()
    image = ground(height, width, generator)
    empty = torch.rand((), generator=generator) < EMPTY
    count = 0 if empty else int(torch.randint(1, MOST + 1, (), generator=generator))
    labels = torch.randint(len(clothes), (count,), generator=generator)
    owner = torch.full((height, width), -1)  # of each pixel: the item that is visible there
    areas = torch.zeros(count)
    for i, label in enumerate(labels.tolist()):
        which, factor, top, left, *tint = torch.rand(7, generator=generator).tolist()
        item = clothes[label][int(which * len(clothes[label]))]
        side = round(28 * (1 + 2 * factor))
        grey, shape = F.interpolate(torch.stack([item, (item > 0.1).float()])[None], (side, side), mode="bilinear")[0]
        alpha = shape >= 0.5
        top, left = int(top * (height - side + 1)), int(left * (width - side + 1))
        inside = slice(top, top + side), slice(left, left + side)
        colour = 0.3 + 0.7 * torch.tensor(tint)[:, None, None]
        image[:, *inside] = torch.where(alpha, colour * (0.3 + 0.7 * grey), image[:, *inside])
        owner[inside] = torch.where(alpha, i, owner[inside])
        areas[i] = alpha.sum()
    masks = owner == torch.arange(count)[:, None, None]  # (n, H, W)
    kept = masks.sum((1, 2)) >= VISIBLE * areas.clamp(min=1)
    masks, labels = masks[kept], labels[kept]
    return {"images": (image * 255).round().byte(), "boxes": mask_boxes(masks), "labels": labels, "masks": masks}


def ground(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Return a ground (3, height, width) from 0 to 1: one colour, stripes in any direction and noise."""
    colour, stripes = torch.rand(2, 3, 1, 1, generator=generator) * torch.tensor([0.6, 0.3])[:, None, None, None]
    angle, length, phase = torch.rand(3, generator=generator).tolist()
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    along = rows * math.sin(math.pi * angle) + columns * math.cos(math.pi * angle)
    waves = (2 * math.pi * (along / (6 + 30 * length) + phase)).sin()
    noise = 0.05 * torch.randn(3, height, width, generator=generator)
    return (0.1 + colour + stripes * waves / 2 + noise).clamp(0, 1)
