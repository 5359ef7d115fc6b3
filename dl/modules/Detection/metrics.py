"""Mean average precision by COCO's rules, as falling errors that no batch and no rank changes.

The rules are those of pycocotools: a detection takes the free box of its class with the largest IoU, the surest detection
first; precision at a recall is the best at that recall or above, read at 101 recalls; a class without a box is left out.
"""

import math
from typing import NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data import Batch
from dl.mytorch.distributed import all_reduce_sum, data_rank
from dl.mytorch.gathering import all_gather
from dl.mytorch.layers.boxes import Detections, area, intersection
from dl.mytorch.metrics import Metric

THRESHOLDS = torch.from_numpy(np.linspace(0.5, 0.95, 10))  # of IoU; the ninth is 0.8999999999999999, as in pycocotools
RECALLS = torch.from_numpy(np.linspace(0, 1, 101))
ANY_AREA = (0.0, 1e10)
NUM_THRESHOLDS = len(THRESHOLDS)


class Truth(NamedTuple):
    """The boxes of one image. A detection in a box of a crowd counts neither as hit nor as miss."""

    boxes: Tensor  # (n, 4)
    labels: Tensor  # (n,), from 0 on
    crowd: Tensor  # (n,) of bools
    areas: Tensor  # (n,), by which `area_range` chooses: of the masks, where the set has them
    masks: Tensor | None = None  # (n, H, W) of bools


def truth_of(batch: Batch, i: int) -> Truth:
    """Return the boxes of image i of a batch, without those of the padding."""
    real = batch["labels"][i] >= 0
    boxes = batch["boxes"][i][real].double()
    crowd = batch["crowd"][i][real].bool() if "crowd" in batch else torch.zeros_like(boxes[:, 0], dtype=torch.bool)
    masks = batch["masks"][i][real].bool() if "masks" in batch else None
    return Truth(boxes, batch["labels"][i][real], crowd, area(boxes) if masks is None else masks.flatten(1).sum(1), masks)


def box_overlaps(boxes: Tensor, truth: Truth) -> Tensor:
    """Return the IoU of boxes (D, 4) with those of an image, (D, N); of a crowd, the share of the box that lies in it."""
    boxes = boxes.double()
    return _overlaps(intersection(boxes, truth.boxes.double()), area(boxes), area(truth.boxes.double()), truth.crowd)


def mask_overlaps(masks: Tensor, truth: Truth) -> Tensor:
    """Return the same of masks (D, h, w), which may lack the padding of the image."""
    assert truth.masks is not None
    height, width = masks.shape[-2:]
    found, true = masks.flatten(1).float(), truth.masks[:, :height, :width].flatten(1).float()  # exact below 2^24 pixels
    return _overlaps((found @ true.T).double(), found.sum(1).double(), true.sum(1).double(), truth.crowd)


def _overlaps(common: Tensor, found: Tensor, true: Tensor, crowd: Tensor) -> Tensor:
    return common / torch.where(crowd, found[:, None], found[:, None] + true - common)


def assigned(overlaps: Tensor, ignored: Tensor, crowd: Tensor, limits: Tensor = THRESHOLDS) -> Tensor:
    """Return which of the boxes (N,) each detection (D,), the surest first, takes: (D, T), -1 for none.

    Each takes the box with the largest of `overlaps` (D, N) that no surer one has taken, if that is at least a limit (T,); one
    that counts before an ignored one, the last of equal ones. Many can take a crowd.

    All detections choose at once; a box keeps the surest that chose it, the others lose it and choose again until none loses.
    That is the result of choosing one after the other (Gale and Shapley 1962, with one order of all boxes), in a few rounds.
    """
    found, true = overlaps.shape
    limits = limits.clamp(max=1 - 1e-10)
    d, n = (overlaps >= limits.min()).nonzero(as_tuple=True)
    order = torch.as_tensor(np.lexsort((-n, -overlaps[d, n], ignored[n], d)))
    d, n = d[order], n[order]  # (P,) pairs that may be, those of each detection in the order of its choice
    pairs, shape = torch.arange(len(d)), (len(limits), len(d))
    possible = overlaps[d, n] >= limits[:, None]  # (T, P)
    while True:
        first = torch.full((len(limits), found), len(d))  # the pair that each detection chooses, (T, D)
        first = first.scatter_reduce(1, d.expand(shape), torch.where(possible, pairs, len(d)), "amin")
        chosen = first[:, d] == pairs
        keeper = torch.full((len(limits), true), found)  # the detection that keeps each box, (T, N)
        keeper = keeper.scatter_reduce(1, n.expand(shape), torch.where(chosen, d, found), "amin")
        lost = chosen & ~crowd[n] & (keeper[:, n] < d)
        if not lost.any():
            return F.pad(n, (0, 1), value=-1)[first].T
        possible &= ~lost


def matches(
    found: Detections, truth: Truth, num_classes: int, *, masks: bool = False, most: int = 100, area_range: tuple = ANY_AREA
) -> tuple[Tensor, Tensor]:
    """Return what average precision is made of, of one image, in float64 on the CPU.

    A row (2 + 2 T) for each of the `most` surest detections of each class: class, score, whether it is a hit at each of the
    thresholds of IoU, whether it is ignored there; and how many boxes of each class count, (K,). Boxes, and detections that
    take none, do not count with an area outside of `area_range`. With `masks`, IoU is that of the masks.
    """
    low, high = area_range
    found, truth = (type(of)(*(None if each is None else each.cpu() for each in of)) for of in (found, truth))
    order = found.scores.argsort(descending=True, stable=True)
    labels = found.labels[order]
    within = F.one_hot(labels, num_classes).cumsum(0).gather(1, labels[:, None])[:, 0]  # its number in its class, from 1
    order, labels = order[within <= most], labels[within <= most]
    if masks:
        assert found.masks is not None
        areas, overlaps = found.masks[order].flatten(1).sum(1), mask_overlaps(found.masks[order], truth)
    else:
        areas, overlaps = area(found.boxes[order].double()), box_overlaps(found.boxes[order], truth)
    ignored = truth.crowd | (truth.areas < low) | (truth.areas > high)
    overlaps = overlaps.masked_fill(labels[:, None] != truth.labels, -1)
    taken = assigned(overlaps, ignored, truth.crowd)
    hits, lone = taken >= 0, ((areas < low) | (areas > high))[:, None]
    nothing = torch.where(hits, F.pad(ignored, (0, 1))[taken], lone)
    rows = torch.cat([labels[:, None], found.scores[order].double()[:, None], hits, nothing], dim=1)
    return rows.double(), torch.bincount(truth.labels[~ignored], minlength=num_classes).double()


def mistakes(found: Detections, truth: Truth) -> tuple[Tensor, Tensor]:
    """Return which detections (D,), the surest first, are wrong, and which boxes (N,) are missed, at an IoU of 0.5."""
    overlaps = box_overlaps(found.boxes, truth).masked_fill(found.labels[:, None] != truth.labels, -1)
    taken = assigned(overlaps, truth.crowd, truth.crowd, THRESHOLDS[:1])[:, 0]
    return taken < 0, ~truth.crowd & ~torch.isin(torch.arange(len(truth.labels)), taken)


def average_precision(rows: Tensor, count: float, thresholds: int = NUM_THRESHOLDS) -> Tensor:
    """Return AP of one class at the first `thresholds` (T,), from its rows in the order of images; NaN if no box counts."""
    if not count:
        return torch.full((thresholds,), math.nan, dtype=torch.float64)
    rows = rows[rows[:, 1].argsort(descending=True, stable=True)]
    hits, ignored = (rows[:, i : i + thresholds].bool() for i in (2, 2 + NUM_THRESHOLDS))
    right, wrong = ((each & ~ignored).T.double().cumsum(1) for each in (hits, ~hits))  # (T, n)
    precision = right / (right + wrong + np.spacing(1))
    precision = precision.flip(1).cummax(1).values.flip(1)  # the best at this recall or above
    places = torch.searchsorted((right / count).contiguous(), RECALLS.expand(thresholds, -1).contiguous())
    return F.pad(precision, (0, 1)).gather(1, places).mean(1)


def precisions(rows: Tensor, counts: Tensor, classes: Sequence[int], thresholds: int = NUM_THRESHOLDS) -> Tensor:
    """Return AP of each of `classes`, (classes, T), from the rows of all images, in their order."""
    return torch.stack([average_precision(rows[rows[:, 0] == k], float(counts[k]), thresholds) for k in classes])


class APError(Metric):
    """1 - average precision, the mean over `classes` (default: all) that have a box, and over thresholds of IoU.

    Reads `outputs["matches"]`, the number of an image in the batch before each row of `matches`, and `outputs["truths"]` (K,).

    Args:
        thresholds: how many of 0.5, 0.55 ... 0.95: 1 for AP at 0.5.
        prefix: of the names of the outputs.
    """

    def __init__(self, num_classes: int, thresholds: int = 1, classes: Sequence[int] = (), prefix: str = "") -> None:
        self.num_classes, self.thresholds, self.prefix = num_classes, thresholds, prefix
        self.classes = classes or range(num_classes)
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self._batches: list[Tensor] = []
        self._truths = torch.zeros(self.num_classes, dtype=torch.float64)

    def update(self, outputs: Batch) -> None:
        rows = outputs[f"{self.prefix}matches"]
        where = rows.new_tensor([len(self._batches), data_rank()]).expand(len(rows), -1)
        self._batches.append(torch.cat([where, rows], dim=1))
        self._truths = self._truths + outputs[f"{self.prefix}truths"]

    def compute(self) -> float:
        rows, counts = torch.zeros(0, 5 + 2 * NUM_THRESHOLDS, dtype=torch.float64), all_reduce_sum(self._truths)
        rows = all_gather(torch.cat([rows, *self._batches]))
        batch, own, place = rows[:, :3].T.numpy()
        rows = rows[torch.as_tensor(np.lexsort((own, place, batch)))]  # images in the order of the set: of equal scores, too
        found = precisions(rows[:, 3:], counts, self.classes, self.thresholds).mean(1)
        return float(1 - found.nanmean())
