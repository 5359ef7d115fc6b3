"""Small images with masks, for tests of networks that classify pixels."""

import torch

from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.data.images.windows import random_windows


def discs(count: int, size: int = 40, channels: int = 1, seed: int = 0) -> Batch:
    """Bright discs on a dark ground: "images" (count, channels, size, size), "masks" (count, size, size), 1 in a disc."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 3, 2, generator=generator) * size
    radii = torch.rand(count, 3, generator=generator) * 4 + 5
    places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), dim=-1)  # (S, S, 2)
    distances = (places - centres[:, :, None, None]).square().sum(-1).sqrt()  # (count, 3, S, S)
    masks = (distances < radii[:, :, None, None]).any(1)
    noise = torch.randn(count, channels, size, size, generator=generator)
    return {"images": 2.0 * masks[:, None] - 1 + 0.3 * noise, "masks": masks.byte()}


def disc_splits(margin: int, window: int = 24) -> Splits:
    """Seven training, three validation and two test images; training windows of `window` pixels."""
    train = Loader(discs(7), 3, shuffle=True, transform=random_windows(window, margin, elastic=2.0))
    return Splits(train, Loader(discs(3, seed=1), 1), Loader(discs(2, seed=2), 2))
