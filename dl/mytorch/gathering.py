"""Rows of all ranks, with a gradient: for losses that compare the examples of a batch with each other."""

from typing import Any

import torch
from torch import Tensor

from dl.mytorch.distributed import all_gather, all_reduce_sum, rank, world_size


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, start: int) -> Tensor:
        ctx.start, ctx.count = start, len(rows)
        return all_gather(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return all_reduce_sum(gradient)[ctx.start : ctx.start + ctx.count], None


def gather_with_gradient(rows: Tensor) -> tuple[Tensor, int]:
    """Return the rows (n, ...) of all ranks in their order, (N, ...), and the place of this rank's first.

    Each rank's rows get the gradient of the losses of all ranks, added up. So if each rank's loss is over its own rows as they
    compare with all of them, the gradients of the ranks add up to that of one process with all rows. Ranks may have different
    numbers of rows, even none.
    """
    if world_size() == 1:
        return rows, 0
    counts = all_gather(torch.tensor([len(rows)], device=rows.device))
    start = int(counts[: rank()].sum())
    gathered: Tensor = _Gather.apply(rows, start)
    return gathered, start
