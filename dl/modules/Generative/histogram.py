"""Bits by a histogram: the floor that a model of images, or of their codes, has to beat."""

import math

import torch
from torch import Tensor

from dl.mytorch.data import Batch
from dl.mytorch.distributed import all_reduce_sum
from dl.mytorch.metrics import Metric


def entropy(counts: Tensor) -> Tensor:
    """Return the entropy in bits of each row of counts (R, N), (R,); NaN for a row of zeros."""
    shares = counts / counts.sum(1, keepdim=True)
    return -torch.special.xlogy(shares, shares).sum(1) / math.log(2)


class Histogram(Metric):
    """Counts of the numbers `outputs[key]` (B, C, ...), whole numbers below `levels`, of each channel by itself."""

    def __init__(self, key: str, levels: int) -> None:
        self.key, self.levels = key, levels
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self._sums = torch.zeros((), dtype=torch.float64)  # takes its shape from the first batch

    def update(self, outputs: Batch) -> None:
        channels = outputs[self.key].transpose(0, 1).flatten(1).long().cpu()
        self._sums = self._sums + torch.stack([channel.bincount(minlength=self.levels) for channel in channels])

    def compute(self) -> float:
        counts = all_reduce_sum(self.sums)  # (C, levels)
        return self.of_counts(counts) if counts.ndim else math.nan

    def of_counts(self, counts: Tensor) -> float:
        """Return the number that the counts (C, levels) give."""
        raise NotImplementedError


class HistogramBits(Histogram):
    """Mean entropy of a number, in bits: what the best histogram needs, which knows the images that are measured."""

    def of_counts(self, counts: Tensor) -> float:
        return entropy(counts).mean().item()
