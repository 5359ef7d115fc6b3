"""The pairing of least cost of predictions and boxes."""

import torch
from torch import Tensor

from dl.mytorch.config import UserError

# B batch, Q queries, N boxes of an image with its padding rows


def assign(cost: Tensor, real: Tensor) -> Tensor:
    """Return the query of each box, in the pairing of least cost: (B, N), -1 for boxes that are not `real` or get none.

    Kuhn 1955, the Hungarian method, by scipy. With more boxes than queries, some boxes get none. A cost that is not finite is
    larger than any other.

    Args:
        cost: (B, Q, N), of giving query q the box n.
        real: bool (B, N), False for padding rows.

    Raises `UserError` without scipy, unless there is nothing to assign.
    """
    queries = torch.full(real.shape, -1)
    largest = torch.finfo(cost.dtype).max
    costs = cost.detach().nan_to_num(largest, largest, largest).cpu()
    for image, rows in enumerate(real.cpu()):
        places = rows.nonzero()[:, 0]
        if len(places):
            found, columns = _solve(costs[image, :, rows])
            queries[image, places[columns]] = found
    return queries.to(cost.device)


def _solve(cost: Tensor) -> tuple[Tensor, Tensor]:
    try:
        from scipy.optimize import linear_sum_assignment
    except ModuleNotFoundError:
        raise UserError('boxes are assigned to queries by scipy: pip install -e ".[detection]"') from None
    rows, columns = linear_sum_assignment(cost.numpy())
    return torch.from_numpy(rows), torch.from_numpy(columns)
