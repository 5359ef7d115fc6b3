"""The smallest of many scores: faster than by `topk` alone, and in the order of the rule of ties."""

import torch
from torch import Tensor


class Smallest:
    """The `count` smallest of each row of scores that come in parts, in no order: `scores` (Q, count) and `places`.

    Once some are known, few of a part are smaller than all of them: they are looked for in groups, by the minimum of each.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.scores: Tensor | None = None
        self.places: Tensor | None = None

    def add(self, scores: Tensor, start: int, group: int = 64) -> None:
        """Take the next part, (Q, n), whose first column has the place `start`."""
        if self.scores is None or self.scores.shape[1] < self.count:
            self._merge(*smallest(scores, self.count), start)
            return
        worst = self.scores.amax(1, keepdim=True)  # (Q, 1)
        groups = scores.shape[1] // group
        minima = scores[:, : groups * group].unflatten(1, (groups, group)).amin(-1)
        rows, chosen = (minima < worst).nonzero(as_tuple=True)
        if len(rows) > minima.numel() // 4:
            self._merge(*smallest(scores, self.count), start)
            return
        columns = chosen[:, None] * group + torch.arange(group, device=scores.device)  # (hits, group)
        hits, inside = (scores[rows[:, None], columns] < worst[rows]).nonzero(as_tuple=True)
        rest_rows, rest = (scores[:, groups * group :] < worst).nonzero(as_tuple=True)
        self._merge(
            *_by_row(scores, torch.cat([rows[hits], rest_rows]), torch.cat([columns[hits, inside], rest + groups * group])),
            start,
        )

    def _merge(self, scores: Tensor, places: Tensor, start: int) -> None:
        """Choose among the scores so far and these, (Q, n)."""
        places = places + start
        if self.scores is not None:
            scores, places = torch.cat([self.scores, scores], 1), torch.cat([self.places, places], 1)
        if scores.shape[1] > self.count:
            scores, chosen = scores.topk(self.count, largest=False, sorted=False)
            places = places.gather(1, chosen)
        self.scores, self.places = scores, places


def _by_row(scores: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return some scores, named by row and column, row by row side by side, filled up with infinity: (Q, most), and columns."""
    order = rows.argsort()
    rows, columns = rows[order], columns[order]
    counts = rows.bincount(minlength=len(scores))
    position = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    found = scores.new_full((len(scores), int(counts.max())), torch.inf)
    places = torch.zeros_like(found, dtype=torch.int64)
    found[rows, position], places[rows, position] = scores[rows, columns], columns
    return found, places


def smallest(scores: Tensor, count: int, group: int = 64) -> tuple[Tensor, Tensor]:
    """Return the `count` smallest of each row of scores (Q, n), of all if there are fewer, and their places, in no order.

    They lie in the groups with the `count` smallest minima: these are found in a pass of its own, much faster than by `topk`.
    """
    queries, n = scores.shape
    groups = n // group
    if groups <= 2 * count:
        return scores.topk(min(count, n), largest=False, sorted=False)
    minima = scores[:, : groups * group].unflatten(1, (groups, group)).amin(-1)
    chosen = minima.topk(count, largest=False, sorted=False).indices  # (Q, count)
    places = (chosen[..., None] * group + torch.arange(group, device=scores.device)).flatten(1)
    rest = torch.arange(groups * group, n, device=scores.device).expand(queries, -1)
    places = torch.cat([places, rest], 1)
    least, own = scores.gather(1, places).topk(count, largest=False, sorted=False)
    return least, places.gather(1, own)


def sorted_rows(distances: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest distances of each row, of equal ones that with the lower number in `rows` first."""
    order = rows.argsort(1)
    distances, rows = distances.gather(1, order), rows.gather(1, order)
    order = distances.argsort(dim=1, stable=True)[:, :k]
    return distances.gather(1, order), rows.gather(1, order)
