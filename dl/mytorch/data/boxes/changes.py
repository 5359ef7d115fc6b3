"""Changes of images, boxes and masks together, on padded batches as of batches.py: turned, mirrored, scaled and cut.

All of them take images of bytes or floats, move padding to the right and below again, and keep x0 < x1 and y0 < y1. What is
drawn at random is drawn for each example unless it says otherwise, from the generator of the batch.
"""

import math

import torch
from torch import Tensor

from dl.mytorch.data.augment import Transform
from dl.mytorch.data.boxes.batches import fit, real, select
from dl.mytorch.data.images.windows import bilinear
from dl.mytorch.data.loader import Batch
from dl.mytorch.layers.boxes import area, clip

VISIBLE = 0.25  # the least share of a box that has to be inside a cut for it to count
PLANES = ("images", "masks")  # (B, C, H, W) and (B, N, H, W)


def random_symmetry(hflip: bool = False, vflip: bool = False, turns: bool = False) -> Transform:
    """Return a transform that mirrors left to right or upside down, each with probability 1/2, and turns by 0 to 3 quarters.

    Whether rows and columns are exchanged is drawn for the batch: of wide images, some tall ones would make most of it padding.
    """

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        count = len(batch["sizes"])
        left, up = torch.rand(2, count, generator=generator) < 0.5
        exchanged = torch.randint(2, (), generator=generator)
        quarters = (2 * torch.randint(2, (count,), generator=generator) + exchanged) * turns
        return symmetry(turn(batch, quarters), left & hflip, up & vflip)

    return apply


def random_scale(zoom: float, visible: float = VISIBLE) -> Transform:
    """Return a transform that scales by a factor drawn log-uniformly from 1 / (1 + zoom) to 1 + zoom.

    Of what is larger than the image was, a part of its size is cut out at a random place; see `rescale`.
    """
    largest = math.log(1 + zoom)

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        drawn = torch.rand(3, len(batch["sizes"]), generator=generator)
        return rescale(batch, ((2 * drawn[0] - 1) * largest).exp(), drawn[1:].T, visible)

    return apply


def turn(batch: Batch, quarters: Tensor) -> Batch:
    """Turn each example clockwise by 90 degrees, `quarters` (B,) times, from 0 to 3."""
    batch = _transposed(batch, quarters % 2 == 1)
    return symmetry(batch, (quarters == 1) | (quarters == 2), quarters >= 2)


def symmetry(batch: Batch, left: Tensor, up: Tensor) -> Batch:
    """Mirror examples left to right where `left` (B,) says so, upside down where `up` (B,) does."""
    height, width = batch["sizes"].unbind(1)
    x0, y0, x1, y1 = batch["boxes"].unbind(-1)  # (B, N) each
    x0, x1 = _mirrored(x0, x1, width, left)
    y0, y1 = _mirrored(y0, y1, height, up)
    boxes = torch.stack([x0, y0, x1, y1], dim=-1) * (batch["labels"] >= 0)[..., None]  # rows of no box stay 0

    def change(planes: Tensor) -> Tensor:
        return _reversed(_reversed(planes, width, left).mT, height, up).mT

    return batch | {name: change(batch[name]) for name in PLANES if name in batch} | {"boxes": boxes}


def rescale(batch: Batch, factors: Tensor, places: Tensor, visible: float = VISIBLE) -> Batch:
    """Make objects larger by `factors` (B,), in images that become smaller, or are cut to what they were.

    `places` (B, 2) from 0 to 1 say where the cut begins: 0 at the upper or left edge, 1 at the lower or right one. Boxes are
    cut too; those of which less than `visible` is left are dropped with their labels and masks, as are those whose mask is
    outside.
    """
    sizes = batch["sizes"]
    full = (sizes * factors[:, None]).floor().clamp(min=1)  # (B, 2), before the cut
    scale = full / sizes
    cut = torch.minimum(full, sizes.to(full))
    start = (places * (full - cut + 1)).floor().minimum(full - cut)
    height, width = batch["images"].shape[-2:]
    lines = []  # the row (B, H) and column (B, W) of the old image at the middle of each pixel
    for i, side in enumerate((height, width)):
        line = (torch.arange(side) + 0.5 + start[:, i, None]) / scale[:, i, None] - 0.5
        lines.append(line.clamp(min=0).minimum(sizes[:, i, None] - 1.0))
    rows, columns = lines[0][:, :, None].expand(-1, -1, width), lines[1][:, None, :].expand(-1, height, -1)
    inside = real(cut, height, width)[:, None]  # (B, 1, H, W)
    changed = {"images": bilinear(batch["images"], torch.stack([rows, columns], dim=-1)) * inside, "sizes": cut.long()}
    scaled = batch["boxes"] * scale.flip(1).repeat(1, 2)[:, None] - start.flip(1).repeat(1, 2)[:, None]
    boxes = clip(scaled, *(side[:, None] for side in cut.unbind(1)))
    kept = area(boxes) > 0
    kept &= area(boxes) >= visible * area(scaled)
    if "masks" in batch:
        examples = torch.arange(len(sizes))[:, None, None]
        masks = batch["masks"].movedim(1, -1)[examples, rows.round().long(), columns.round().long()].movedim(-1, 1) & inside
        changed["masks"] = masks
        kept &= masks.flatten(2).any(2) | ~batch["masks"].flatten(2).any(2)
    return fit(select(batch | changed | {"boxes": boxes}, kept))


def _mirrored(low: Tensor, high: Tensor, extent: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return sides (B, N) of boxes, mirrored inside of images of `extent` (B,)."""
    extent, chosen = extent[:, None], chosen[:, None]
    return torch.where(chosen, extent - high, low), torch.where(chosen, extent - low, high)


def _reversed(planes: Tensor, extent: Tensor, chosen: Tensor) -> Tensor:
    """Reverse the first `extent` (B,) columns of planes (B, K, H, W)."""
    places = torch.arange(planes.shape[-1])
    inside = chosen[:, None] & (places < extent[:, None])
    source = torch.where(inside, extent[:, None] - 1 - places, places)  # (B, W)
    return planes.gather(-1, source[:, None, None].expand(planes.shape))


def _transposed(batch: Batch, chosen: Tensor) -> Batch:
    """Exchange rows and columns where `chosen` (B,) says so."""
    if not chosen.any():
        return batch
    batch = fit(batch, square=True)
    boxes = torch.where(chosen[:, None, None], batch["boxes"][..., [1, 0, 3, 2]], batch["boxes"])
    sizes = torch.where(chosen[:, None], batch["sizes"].flip(1), batch["sizes"])
    which = chosen[:, None, None, None]
    planes = {name: torch.where(which, batch[name].mT, batch[name]) for name in PLANES if name in batch}
    return fit(batch | planes | {"boxes": boxes, "sizes": sizes})
