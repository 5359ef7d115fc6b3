"""Exact nearest neighbours under L1, L2, any Lp, cosine distance and dot product, in bounded memory, on any device.

Two passes. The first scores all vectors in float32, the fast way: as a matrix product where the distance allows it
(|q|^2 - 2qx + |x|^2), block by block, and keeps a few more candidates than are asked for. The second computes the
distances of the candidates in float64 from their definition. A query whose candidates are not proven to hold its
nearest, by a bound on the rounding of the first pass (Higham, "Accuracy and Stability of Numerical Algorithms", 2002,
section 3.1) and on what its range loses, is answered from the definition over all vectors: slow, and only where many
distances are nearly equal, or so small or large that their squares are none of float32.

The rule of ties: of equal distances the lower row comes first. Vectors with NaN or infinity come last, at a distance of NaN.
"""

import math
from typing import Sequence

import torch
from torch import Tensor

from dl.modules.DataMining.selection import Smallest, sorted_rows
from dl.mytorch.config import UserError
from dl.mytorch.float64 import with_float64

# Q queries, N vectors, D their length, k neighbours asked for

MEMORY = 4 * 2**20  # bytes of scores that the first pass holds at a time: they stay in the cache
CACHE = 2**20  # bytes of vectors that all queries meet before the next come, where there is no matrix product
FEW = 32  # queries
SPARE = 8  # candidates beyond k
ROUNDING = 2.0**-24  # of float32
SMALLEST, LARGEST = 2.0**-126, 2.0**125  # that float32 holds with all its digits; a few times this are no overflow


def power(distance: str) -> float | None:
    """Return p of an Lp distance: "l1", "l2", "l0.5", "linf"; None for "cosine" and "dot". Raises `ValueError` for others."""
    if distance in ("cosine", "dot"):
        return None
    try:
        p = float(distance.removeprefix("l")) if distance.startswith("l") else math.nan
    except ValueError:
        p = math.nan
    if not p > 0:
        raise ValueError(f'distance {distance!r}: there are "l1", "l2", "cosine", "dot", and any "lP", as "l3", "linf"')
    return p


class Exact:
    """Finds the nearest of vectors (N, D), given as one tensor or as blocks of rows, which may be memory-mapped.

    `nonfinite`: the rows of vectors with NaN or infinity. On a device without float64 (MPS) the CPU searches.
    Raises `ValueError` when there are none, or blocks differ in D.
    """

    def __init__(self, vectors: Tensor | Sequence[Tensor], memory: int = MEMORY) -> None:
        blocks = [vectors] if isinstance(vectors, Tensor) else list(vectors)
        if not blocks or any(block.ndim != 2 or block.shape[1] != blocks[0].shape[1] or not block.shape[1] for block in blocks):
            raise ValueError(f"vectors are (N, D) with one D; got {[tuple(block.shape) for block in blocks][:3]}")
        self.blocks = [with_float64(block) for block in blocks]
        self.memory = memory
        self.length = self.blocks[0].shape[1]
        # |x|^2, (N,) in all; NaN if not finite. Of pieces, so that no copy is as large as the vectors.
        self.squares = [torch.cat([piece.float().square().sum(1) for piece in block.split(1000)]) for block in self.blocks]
        self.rounded = not all(map(_is_float32, self.blocks))  # the first pass sees other numbers
        lengths = torch.cat([_lengths(block, squares) for block, squares in zip(self.blocks, self.squares)])
        self.nonfinite = (~lengths.isfinite()).nonzero().flatten()
        lengths = lengths[lengths.isfinite()]
        self.largest = lengths.max().item() if len(lengths) else 0.0
        self.least = lengths[lengths > 0].min().item() if lengths.any() else math.inf  # but for those of length 0

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def search(self, queries: Tensor, k: int = 5, distance: str = "l2") -> tuple[Tensor, Tensor]:
        """Return the k nearest of each query (Q, D), nearest first: distances (Q, k) in float64 and rows (Q, k).

        Cosine distance is 1 - cos, and 1 for a vector of length 0. For "dot" the largest products come first. With
        fewer than k vectors there are fewer columns. Raises `ValueError` for queries of another length, and `UserError` for
        queries that are not finite, and for a P so small that distances would be infinite.
        """
        p = power(distance)
        if queries.ndim != 2 or queries.shape[1] != self.length or k < 1:
            raise ValueError(f"queries are (Q, {self.length}) and k is 1 or more; got {tuple(queries.shape)}, {k}")
        queries = queries.to(self.blocks[0].device)
        if not queries.isfinite().all():
            raise UserError("a vector with NaN or infinity has no neighbours")
        self._check_power(queries, distance, p)
        k = min(k, len(self))
        parts = [self._search(part, k, distance, p) for part in queries.split(1000)]
        distances, rows = (torch.cat(part) for part in zip(*parts))
        return -distances if distance == "dot" else distances, rows

    def _check_power(self, queries: Tensor, distance: str, p: float | None) -> None:
        """Raise `UserError` when D^(1/p) times the largest difference has no place in float64."""
        if p is None or p >= 1 or not len(queries):
            return
        largest = math.log2(max(self.largest + queries.double().norm(dim=1).max().item(), SMALLEST))
        if math.log2(self.length) / p + largest > 1023:
            least = math.ceil(1e4 * math.log2(self.length) / (1023 - largest)) / 1e4
            raise UserError(f"distance {distance!r} of {self.length} numbers would be infinite: P has to be at least {least:g}")

    def _search(self, queries: Tensor, k: int, distance: str, p: float | None) -> tuple[Tensor, Tensor]:
        count = min(k + SPARE, len(self))
        scores, rows = self._candidates(queries.float(), count, distance, p)
        parts = zip(queries.double().split(FEW), rows.split(FEW))  # of which the vectors stay in the cache
        exact = torch.cat([_distances(some, self.rows(of_some), distance, p) for some, of_some in parts])  # (Q, count)
        if len(self.nonfinite):
            exact[torch.isin(rows, self.nonfinite)] = math.nan
        exact, rows = sorted_rows(exact, rows, k)
        if count < len(self):
            unproven = (~self._proven(queries, exact[:, -1], scores.amax(1), distance, p)).nonzero().flatten()
            for i in unproven.tolist():
                exact[i], rows[i] = self._by_definition(queries[i : i + 1].double(), k, distance, p)
        return exact, rows

    def _candidates(self, queries: Tensor, count: int, distance: str, p: float | None) -> tuple[Tensor, Tensor]:
        """Return scores (Q, count) in float32 that rise with the distance, and their rows: the smallest, in no order."""
        product = p is None or p == 2
        step = self.memory // 4 // max(1, len(queries)) if product else CACHE // 4 // self.length
        best, start = Smallest(count), 0
        pending: list[Tensor] = []
        for block, squares in zip(self.blocks, self.squares):
            for piece, own in zip(block.split(max(1, step)), squares.split(max(1, step))):
                scores = _scores(queries, piece.float(), own, distance, p)
                pending.append(scores.masked_fill_(own.isnan(), math.inf) if len(self.nonfinite) else scores)
                if sum(part.shape[1] for part in pending) * len(queries) * 4 >= self.memory // 2:
                    start = _take(pending, start, best)
        _take(pending, start, best)
        return best.scores, best.places

    def rows(self, rows: Tensor) -> Tensor:
        """Return the vectors (..., D) of `rows` (...), in float64."""
        if len(self.blocks) == 1:
            return self.blocks[0][rows].double()
        vectors = torch.empty(*rows.shape, self.length, dtype=torch.float64, device=rows.device)
        start = 0
        for block in self.blocks:
            here = (rows >= start) & (rows < start + len(block))
            vectors[here] = block[rows[here] - start].double()
            start += len(block)
        return vectors

    def _proven(self, queries: Tensor, kth: Tensor, worst: Tensor, distance: str, p: float | None) -> Tensor:
        """Whether a vector outside of the candidates, whose score was at least `worst`, cannot be as near as the k-th."""
        sums = (self.length + 16) * ROUNDING  # relative error of a sum of D products, and of what is done beside
        lost = (self.length + 16) * SMALLEST  # of D products that are too small for float32
        length = queries.double().square().sum(1).sqrt()
        if p == 2:
            size = (length + self.largest).square()
            score, error = kth.square() - length.square(), sums * size + 4 * lost
        elif p == 1:
            size = math.sqrt(self.length) * (length + self.largest)  # at least |q|_1 + |x|_1
            score, error = kth + queries.double().sum(1), 4 * sums * size + 4 * lost
        elif distance == "dot":
            size = length * self.largest
            score, error = kth, sums * size + lost
        elif distance == "cosine":
            size = length.clamp_min(self.largest).square()
            score, error = kth, 2 * sums + 4 * lost / length.clamp_max(self.least).square()
        else:
            size = torch.where((queries.float() != queries).any(1) | self.rounded, math.inf, 0.0)
            score, error = kth, worst.abs().double()
            if math.isinf(p):
                error = error * sums
            else:
                size = torch.where(error**p < SMALLEST / ROUNDING, math.inf, size)
                error = error * math.expm1(min(sums * max(4 * p, 1 / p), 700.0))
        return worst.isfinite() & (size < LARGEST) & (score + error < worst)

    def _by_definition(self, query: Tensor, k: int, distance: str, p: float | None) -> tuple[Tensor, Tensor]:
        """Return the k nearest of one query (1, D) with no first pass."""
        step = max(1, self.memory // 32 // self.length)
        pieces = (piece for block in self.blocks for piece in block.split(step))
        exact = torch.cat([_distances(query, piece.double()[None], distance, p) for piece in pieces], 1)
        exact[:, self.nonfinite] = math.nan
        exact, rows = sorted_rows(exact, torch.arange(len(self), device=exact.device)[None], k)
        return exact[0], rows[0]


def _is_float32(block: Tensor) -> bool:
    """Return whether float32 holds all its numbers, whatever its dtype."""
    small = block.is_floating_point() and torch.finfo(block.dtype).bits <= 32
    return small or bool((block.float().double() == block.double()).all())


def _lengths(block: Tensor, squares: Tensor) -> Tensor:
    """|x| of vectors (n, D) in float64, (n,), from |x|^2 in float32 where precise. `squares` of no finite ones become NaN."""
    lengths = squares.double().sqrt()
    for rows in (~((squares > 2.0**-100) & (squares < LARGEST))).nonzero().flatten().split(1000):
        lengths[rows] = block[rows].double().square().sum(1).sqrt()
    squares[~lengths.isfinite()] = math.nan
    return lengths


def _take(pending: list[Tensor], start: int, best: Smallest) -> int:
    """Put the pending scores, whose first place is `start`, to the best; return the place after the last."""
    if pending:
        scores = torch.cat(pending, 1) if len(pending) > 1 else pending[0]
        pending.clear()
        best.add(scores, start)
        start += scores.shape[1]
    return start


def _scores(queries: Tensor, vectors: Tensor, squares: Tensor, distance: str, p: float | None) -> Tensor:
    """(Q, n) in float32, in the order of the distance: the distance itself, but |x|^2 - 2qx for "l2", -qx for "dot".

    For "l1" it is 2 sum max(q, x) - sum x, since |q - x| = 2 max(q, x) - q - x: two operations on all numbers, not three.
    """
    if p == 1:  # query by query while the vectors are in the cache
        larger = torch.empty_like(vectors)  # once: new memory costs as much as the sum
        return 2 * torch.stack([torch.maximum(vectors, query, out=larger).sum(1) for query in queries]) - vectors.sum(1)
    if p is not None and p != 2:
        return torch.cdist(queries, vectors, p)
    if p == 2 and len(queries) > FEW:
        return torch.addmm(squares, queries, vectors.T, alpha=-2)
    products = _products(queries, vectors)
    if p == 2:
        return squares - 2 * products
    if distance == "dot":
        return -products
    lengths = queries.square().sum(1, keepdim=True).sqrt() * squares.sqrt()
    return 1 - products / lengths.clamp_min(torch.finfo(torch.float32).tiny)


def _products(queries: Tensor, vectors: Tensor, part: int = 1000) -> Tensor:
    """qx, (Q, n). Few queries meet the vectors in parts, on all cores; MKL multiplies a whole matrix by them on one."""
    whole = len(vectors) // part * part
    if len(queries) > FEW or whole == 0:
        return queries @ vectors.T
    parts = vectors[:whole].unflatten(0, (-1, part))  # (n / part, part, D)
    products = torch.bmm(parts, queries.T.expand(len(parts), -1, -1)).flatten(0, 1)  # (n, Q)
    return torch.cat([products, vectors[whole:] @ queries.T]).T


def _distances(queries: Tensor, vectors: Tensor, distance: str, p: float | None) -> Tensor:
    """Queries (Q, D) and vectors (Q or 1, n, D) in float64 -> distances (Q, n) from their definition; -qx for "dot"."""
    if p is None:
        products = (queries[:, None] * vectors).sum(-1)
        if distance == "dot":
            return -products
        lengths = (queries.square().sum(-1, keepdim=True) * vectors.square().sum(-1)).sqrt()
        return 1 - torch.where(lengths > 0, products / lengths, 0)
    differences = (queries[:, None] - vectors).abs_()
    if p == 1:
        return differences.sum(-1)
    if p == 2:
        return differences.square_().sum(-1).sqrt_()
    largest = differences.amax(-1)
    if math.isinf(p):
        return largest
    shares = differences / largest.clamp_min(torch.finfo(torch.float64).tiny)[..., None]  # no power then overflows
    return largest * shares.pow_(p).sum(-1).pow_(1 / p)
