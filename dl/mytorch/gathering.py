"""Rows of all ranks, also with a gradient: for metrics and losses that compare examples with each other."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import one_hot

from dl.mytorch.distributed import all_reduce_sum, data_rank, data_world_size, gather_parts, on_backend, world_size


def all_gather(x: Tensor) -> Tensor:
    """Return the `x` of the ranks that read different data, joined along dimension 0 in their order; lengths may differ."""
    if world_size() == 1:
        return x
    lengths = all_reduce_sum(one_hot(torch.tensor(data_rank()), data_world_size()) * x.shape[0]).tolist()
    padded = x.new_zeros(max(lengths), *x.shape[1:])
    padded[: x.shape[0]] = x.detach()
    parts = [torch.empty_like(on_backend(padded)) for _ in range(world_size())]
    dist.all_gather(parts, on_backend(padded).contiguous())
    return torch.cat([part[:length] for part, length in zip(parts[:: world_size() // data_world_size()], lengths)]).to(x.device)


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
    if data_world_size() == 1:
        return rows, 0
    counts = all_gather(torch.tensor([len(rows)], device=rows.device))
    start = int(counts[: data_rank()].sum())
    gathered: Tensor = _Gather.apply(rows, start)
    return gathered, start


def gather_rows(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return rows for the examples of a batch, of all ranks, in the order of the whole batch. All ranks call it."""
    from dl.mytorch import contract

    contract.check_rows(state)
    parts = gather_parts({name: rows.cpu() for name, rows in state.items()})
    whole_rows = {}
    for name in parts[0]:
        rows = [part[name] for part in parts]
        whole_rows[name] = torch.cat(rows)
        for i, own in enumerate(rows):
            whole_rows[name][i :: len(parts)] = own  # as `Loader` cuts a batch
    return whole_rows


def own_rows(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of what `gather_rows` gave, the rows of this rank, whatever number of ranks there was."""
    return {name: rows[data_rank() :: data_world_size()] for name, rows in state.items()}
