"""Changes to whole batches, as tensor operations: (batch, generator) -> batch. None of them writes in place."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data.loader import Batch, Transform
from dl.mytorch.distributed import fork_rng


def compose(*steps: Transform) -> Transform:
    """One step after the other, from one stream of randomness."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        for step in steps:
            batch = step(batch, generator)
        return batch

    return apply


def normalize(mean: list[float], std: list[float]) -> Transform:
    """Map images of bytes (B, C, H, W) to floats (x / 255 - mean) / std, channel by channel."""
    scale = 1 / (255 * torch.tensor(std)).view(-1, 1, 1)
    shift = (torch.tensor(mean) / torch.tensor(std)).view(-1, 1, 1)

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"].float()
        return batch | {"images": torch.addcmul(-shift.to(images.device), images, scale.to(images.device))}

    return apply


def signed(batch: Batch, generator: torch.Generator) -> Batch:
    """Map images of bytes (B, C, H, W) to floats from -1 to 1, as generative networks learn them."""
    return batch | {"images": batch["images"].float() / 127.5 - 1}


def random_crop(padding: int) -> Transform:
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


def random_flip() -> Transform:
    """Mirror each image left to right with probability 1/2."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"]
        mirrored: Tensor = torch.rand(len(images), generator=generator) < 0.5
        return batch | {"images": torch.where(mirrored.to(images.device)[:, None, None, None], images.flip(-1), images)}

    return apply


def auto_augment(policy: str) -> Transform:
    """AutoAugment: Cubuk et al. 2018, https://arxiv.org/abs/1805.09501. One of 25 pairs of changes, drawn for each image.

    `policy`: "cifar10", "svhn" or "imagenet", the set for which the pairs were found. Images are bytes, of 1 channel or 3.
    The changes are torchvision's, and draw from the global generator: seeded for the batch, and put back afterwards. What a
    shape leaves empty is grey, as in the authors' code for ImageNet; theirs for CIFAR takes the mean colour (125, 123, 114).
    """
    from dl.mytorch.torchvision_compat import import_torchvision

    transforms = import_torchvision().transforms
    change = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy), fill=128)

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"]
        with fork_rng(int(torch.randint(2**32, (), generator=generator))):
            changed = [change(image) for image in images]
        return batch | {"images": torch.stack(changed) if changed else images}

    return apply


def random_erasing(probability: float, area: tuple[float, float] = (0.02, 0.4), aspect: float = 0.3) -> Transform:
    """Random Erasing: Zhong et al. 2017, algorithm 1, https://arxiv.org/abs/1708.04896. Images are bytes.

    With `probability`, a rectangle of each image becomes noise: its share of the image is drawn from `area`, its height /
    width from `aspect` to 1 / `aspect`, the noise from 0 to 255 for each pixel and channel. The paper draws again when
    the rectangle sticks out of the image; here its place is drawn among those where it fits, and a side that is too long
    is cut.
    """

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images = batch["images"]
        count, _, height, width = images.shape
        chosen, share, ratio, down, right = torch.rand(5, count, generator=generator)
        pixels = height * width * (area[0] + (area[1] - area[0]) * share)
        ratio = aspect + (1 / aspect - aspect) * ratio
        tall = (pixels * ratio).sqrt().round().clamp(1, height)
        wide = (pixels / ratio).sqrt().round().clamp(1, width)
        top, left = ((height - tall + 1) * down).floor(), ((width - wide + 1) * right).floor()
        erased = _boxes(top, left, tall * (chosen < probability), wide, height, width).to(images.device).expand_as(images)
        noise = torch.randint(256, (int(erased.sum()),), dtype=images.dtype, generator=generator)
        return batch | {"images": images.masked_scatter(erased, noise.to(images.device))}

    return apply


def mixup(alpha: float, num_classes: int) -> Transform:
    """mixup: Zhang et al. 2017, https://arxiv.org/abs/1710.09412. lambda x_i + (1 - lambda) x_j, of images and of labels.

    As in the authors' code, one lambda from Beta(alpha, alpha) for the batch, whose images are paired at random. Images
    become floats, of the same range; "targets" (B, num_classes) are added, and "labels" stay those of x_i.
    """

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images, order = batch["images"].float(), _order(batch, generator)
        share = _beta(alpha, generator)
        return batch | {"images": images.lerp(images[order], 1 - share), "targets": _targets(batch, order, share, num_classes)}

    return apply


def cutmix(alpha: float, num_classes: int) -> Transform:
    """CutMix: Yun et al. 2019, section 3.1 and algorithm A1, https://arxiv.org/abs/1905.04899.

    A box of x_j is pasted into x_i. One box for the batch: sides of sqrt(1 - lambda) of the image's, lambda from
    Beta(alpha, alpha), the centre anywhere, cut at the edges. "targets" (B, num_classes) are added, in which each of both
    labels has the share of its pixels; "labels" stay those of x_i.
    """

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        images, order = batch["images"], _order(batch, generator)
        size = torch.tensor(images.shape[2:])
        half = (size * (1 - _beta(alpha, generator)) ** 0.5).int() // 2
        centre = (size * torch.rand(2, generator=generator)).int()
        (top, left), (bottom, right) = (centre - half).clamp(min=0), torch.minimum(centre + half, size)
        pasted = _boxes(*(side.view(1) for side in (top, left, bottom - top, right - left)), *size.tolist()).to(images.device)
        share = 1 - float(pasted.float().mean())
        mixed = torch.where(pasted, images[order], images)
        return batch | {"images": mixed, "targets": _targets(batch, order, share, num_classes)}

    return apply


def either(first: Transform, second: Transform) -> Transform:
    """One of the two for each batch, with equal chances."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        return (first if torch.rand((), generator=generator) < 0.5 else second)(batch, generator)

    return apply


def _boxes(top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, height: int, width: int) -> Tensor:
    """Masks (B, 1, height, width) of the boxes whose corners and sides are (B,)."""
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])  # (B, height)
    inside_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])  # (B, width)
    return (inside_rows[:, :, None] & inside_columns[:, None, :])[:, None]


def _beta(alpha: float, generator: torch.Generator) -> float:
    """Return a draw from Beta(alpha, alpha): NumPy's, since torch draws it from the global generator only."""
    return np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha)


def _order(batch: Batch, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(batch["labels"]), generator=generator).to(batch["labels"].device)


def _targets(batch: Batch, order: Tensor, share: float, num_classes: int) -> Tensor:
    own = F.one_hot(batch["labels"], num_classes).float()
    return share * own + (1 - share) * own[order]
