"""Changes to whole batches, as tensor operations: (batch, generator) -> batch. None of them writes in place."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data.loader import Augment, Batch


def compose(*steps: Augment) -> Augment:
    """One step after the other, from one stream of randomness."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        for step in steps:
            batch = step(batch, generator)
        return batch

    return apply


def normalize(mean: list[float], std: list[float]) -> Augment:
    """Images of bytes (B, C, H, W) to floats (x / 255 - mean) / std, channel by channel."""
    scale = 1 / (255 * torch.tensor(std)).view(-1, 1, 1)
    shift = (torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        return batch | {"images": torch.addcmul(-shift.to(images.device), images, scale.to(images.device))}

    return apply


def random_crop(padding: int) -> Augment:
    """Pad each image by `padding` zeros on all sides and cut its old size out at a random place."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"]
        count, channels, height, width = images.shape
        top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator).to(images.device)
        rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]  # (B, 1, H, 1)
        columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]  # (B, 1, 1, W)
        examples = torch.arange(count, device=images.device)[:, None, None, None]
        planes = torch.arange(channels, device=images.device)[None, :, None, None]
        return batch | {"images": F.pad(images, [padding] * 4)[examples, planes, rows, columns]}

    return apply


def random_flip() -> Augment:
    """Mirror each image left to right with probability 1/2."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"]
        mirrored: Tensor = torch.rand(len(images), generator=generator) < 0.5
        return batch | {"images": torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)}

    return apply
