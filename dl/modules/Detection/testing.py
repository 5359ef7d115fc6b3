"""Small images with boxes, for tests of networks that detect objects."""

import torch
from torch import Tensor

from dl.mytorch.data import Batch, Loader, Splits

CLASSES = ("bright", "dark")
SIZES = [(40, 48), (32, 44), (48, 36)]


def scene(size: tuple[int, int], count: int, generator: torch.Generator, canvas: int = 48) -> Batch:
    """Return one image (3, canvas, canvas) with `count` rectangles in noise, at most 3, side by side: bright or dark ones."""
    height, width = size
    image = torch.zeros(3, canvas, canvas)
    image[:, :height, :width] = 0.2 * torch.randn(3, height, width, generator=generator)
    boxes, labels, masks = torch.zeros(3, 4), torch.full((3,), -1), torch.zeros(3, canvas, canvas, dtype=torch.bool)
    column = width // 3
    for i in range(count):
        w, h = torch.randint(8, column, (2,), generator=generator).tolist()
        top = int(torch.randint(height - h, (1,), generator=generator))
        left, label = i * column, int(torch.randint(2, (1,), generator=generator))
        boxes[i], labels[i] = torch.tensor([left, top, left + w, top + h]), label
        masks[i, top : top + h, left : left + w] = True
        image[:, masks[i]] += 2.0 if label == 0 else -2.0
    return {"images": image, "sizes": torch.tensor(size), "boxes": boxes, "labels": labels, "masks": masks}


def scenes(count: int = 3, masks: bool = False, seed: int = 0) -> Batch:
    """Return a padded batch of images of several sizes, 48 x 48 with padding; the second of them has no box, others 1 to 3."""
    generator = torch.Generator().manual_seed(seed)
    made = [scene(SIZES[i % 3], 0 if i == 1 else i % 3 + 1, generator) for i in range(count)]
    names = [name for name in made[0] if masks or name != "masks"]
    return {name: torch.stack([one[name] for one in made]) for name in names}


def tiny_splits(masks: bool = False) -> Splits:
    """Return 7 + 3 + 2 images in batches of 3, 1 and 2: three steps."""
    train, val, test = (scenes(count, masks, seed) for seed, count in enumerate((7, 3, 2)))
    return Splits(Loader(train, 3, shuffle=True), Loader(val, 1), Loader(test, 2), names=CLASSES)


def tiny_batch(dtype: torch.dtype = torch.float32, masks: bool = False) -> tuple[Tensor, ...]:
    """Return images (3, 3, 48, 48), sizes, boxes (3, 3, 4), labels and perhaps masks: the arguments of a model in training."""
    return tuple(tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in scenes(masks=masks).values())
