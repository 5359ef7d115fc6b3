"""Errors of a segmentation, from one matrix of counts: pooled over all pixels, so that no batch or rank changes them."""

import math

import torch
from torch import Tensor

from dl.mytorch.data import Batch
from dl.mytorch.data.images.windows import IGNORE
from dl.mytorch.float64 import float64_device
from dl.mytorch.metrics import Metric


def confusion(predicted: Tensor, masks: Tensor, num_classes: int) -> Tensor:
    """Return how many pixels of class i are taken for j, (num_classes, num_classes) int64; those of IGNORE are not counted."""
    counted = masks != IGNORE
    pairs = masks[counted].long() * num_classes + predicted[counted].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


class OfConfusion(Metric):
    """A formula of the sum of `outputs["confusion"]` (K, K), rows the true classes."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes, self.num_sums = num_classes, num_classes**2
        super().__init__()

    def update(self, outputs: Batch) -> None:
        counts = outputs["confusion"].flatten()
        device = float64_device(counts.device)
        self._sums = self._sums.to(device) + counts.to(device, torch.float64)

    def formula(self, *sums: float) -> float:
        return self.error(torch.tensor(sums, dtype=torch.float64).view(self.num_classes, self.num_classes))

    def error(self, counts: Tensor) -> float:
        """Return the error, from the counts (K, K) over all ranks."""
        raise NotImplementedError


class PixelError(OfConfusion):
    """The share of pixels whose class is wrong."""

    def error(self, counts: Tensor) -> float:
        return float(1 - counts.diag().sum() / counts.sum())


class IoUError(OfConfusion):
    """1 - mean IoU, as papers report it: the mean over classes of intersection over union, all images pooled.

    A class that is in no mask and in no prediction is left out.
    """

    def error(self, counts: Tensor) -> float:
        iou = per_class_iou(counts)
        return float(1 - iou[~iou.isnan()].mean())


class DiceError(OfConfusion):
    """1 - Dice of one class, 2 |A and B| / (|A| + |B|), all images pooled; NaN where neither mask nor prediction has it."""

    def __init__(self, num_classes: int, index: int) -> None:
        super().__init__(num_classes)
        self.index = index

    def error(self, counts: Tensor) -> float:
        iou = float(per_class_iou(counts)[self.index])
        return math.nan if math.isnan(iou) else 1 - 2 * iou / (1 + iou)


def per_class_iou(counts: Tensor) -> Tensor:
    """Return |A and B| / |A or B| of each class, (K,), NaN for 0 / 0, from counts (K, K)."""
    return counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())


def rand_error(predicted: Tensor, label: Tensor) -> float:
    """Return 1 - the Rand F-score of ISBI 2012 of two segmentations into objects (H, W), numbered from 1, 0 between them.

    Arganda-Carreras et al. 2015: F = sum p_ij^2 / (0.5 sum s_i^2 + 0.5 sum t_j^2), p_ij being the share of pixels in object i
    of the prediction and j of the label. Pixels between the objects of the label do not count; pixels of its objects that the
    prediction puts between objects are an object each. NaN for a label without objects.
    """
    inside = label > 0
    first, second = predicted[inside].long(), label[inside].long()
    if not len(second):
        return math.nan
    alone = first == 0
    pairs = (first * (second.max() + 1) + second)[~alone].unique(return_counts=True)[1].double()
    merged = first[~alone].unique(return_counts=True)[1].double()
    true = second.unique(return_counts=True)[1].double()
    singles = int(alone.sum())
    both, one, other = ((counts.square().sum() + extra) for counts, extra in ((pairs, singles), (merged, singles), (true, 0)))
    return float(1 - both / (0.5 * one + 0.5 * other))
