"""Small images as bytes, for tests of networks that learn from views."""

import torch
from torch import Tensor

from dl.mytorch.data import Batch, Loader, Splits, synthetic


def byte_images(count: int, seed: int = 0, size: int = 8) -> Batch:
    """Noisy copies of a colour pattern for each of three classes: "images" (count, 3, size, size) bytes, "labels" (count,)."""
    made = synthetic.images(count, 3, 3, size, seed)
    return {"images": (made["images"] * 40 + 128).clamp(0, 255).byte(), "labels": made["labels"]}


def byte_splits(size: int = 8) -> Splits:
    """10 training, 5 validation and 3 test images, in batches of 4."""
    sets = [byte_images(count, seed, size) for seed, count in enumerate((10, 5, 3))]
    return Splits(*(Loader(data, 4, shuffle=i == 0) for i, data in enumerate(sets)))


def view_batch(count: int = 8, size: int = 8) -> dict[str, Tensor]:
    """A batch of evaluation: two unlike views of each image, and the images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=generator)
    noise = torch.randn(2, count, 3, size, size, generator=generator)
    return {
        "first": images + 0.1 * noise[0],
        "second": images + 0.1 * noise[1],
        "images": images,
        "labels": torch.arange(count) % 3,
    }
