"""What tests of boxes share."""

import torch

from dl.mytorch.data.loader import Batch


def rectangles(height: int, width: int, boxes: list[list[int]], labels: list[int]) -> Batch:
    """Return an example whose masks fill their boxes; its image is 100 and more there, 10 elsewhere."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[y0:y1, x0:x1] = True
    image = torch.where(masks.any(0), 100 + torch.arange(width) % 5, 10).byte().expand(3, height, width)
    return {
        "images": image,
        "boxes": torch.tensor(boxes).view(-1, 4).float(),
        "labels": torch.tensor(labels).long(),
        "masks": masks,
    }
