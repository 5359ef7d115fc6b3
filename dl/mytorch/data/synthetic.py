"""Small made-up data that a model can learn in seconds: for tests."""

import torch

from dl.mytorch.data.loader import Batch, Loader, Splits


def images(count: int, num_classes: int = 10, channels: int = 1, size: int = 28, seed: int = 0) -> Batch:
    """Noisy copies of one random pattern per class: "images" (count, channels, size, size), "labels" (count,).

    Patterns are of patches of 4 x 4 pixels, so `size` is a multiple of 4. They depend on the sizes alone, the noise on
    `seed`: sets of two seeds are of the same classes.
    """
    patches = torch.randn(num_classes, channels, size // 4, size // 4, generator=torch.Generator().manual_seed(0))
    patterns = patches.repeat_interleave(4, -1).repeat_interleave(4, -2)
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.randint(num_classes, (count,), generator=generator)
    noise = torch.randn(count, channels, size, size, generator=generator)
    return {"images": patterns[labels] + 0.5 * noise, "labels": labels}


def image_splits(
    channels: int = 1, size: int = 28, batch_size: int = 16, num_classes: int = 10, counts: tuple[int, int, int] = (50, 17, 19)
) -> Splits:
    """`counts` training, validation and test images: by default no size is a multiple of the batch size."""
    sets = [images(count, num_classes, channels, size, seed) for seed, count in enumerate(counts)]
    return Splits(*(Loader(data, batch_size, shuffle=i == 0) for i, data in enumerate(sets)))
