"""Sparse matrices times dense ones, with a backward pass written by hand.

Features of papers are 99 % zeros, and so is an adjacency matrix. A row of the product is a weighted sum of rows of the dense
matrix, which torch has as `embedding_bag`; the gradient is such a sum over the transposed matrix, in its order of entries.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# R rows, C columns, Z entries


class SparseMatrix(NamedTuple):
    """A matrix (R, C) of which the entries that are not 0 are stored row by row (CSR), and the order of its transpose.

    `matrix @ dense` is a dense matrix, to whose dense factor gradients flow, not to `values`.
    """

    starts: Tensor  # (R + 1,): the entries of row i are those from starts[i] to starts[i + 1]
    columns: Tensor  # (Z,)
    values: Tensor  # (Z,)
    transposed_starts: Tensor  # (C + 1,)
    transposed_columns: Tensor  # (Z,)
    order: Tensor  # (Z,): entry k of the transpose is entry order[k] here

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.starts) - 1, len(self.transposed_starts) - 1

    def to(self, *args: Any) -> "SparseMatrix":
        """Return the matrix on another device, or its values in another precision."""
        device = self.values.to(*args).device
        moved = [tensor.to(device) for tensor in self]
        return SparseMatrix(*moved)._replace(values=self.values.to(*args))

    def __matmul__(self, dense: Tensor) -> Tensor:
        return _Product.apply(dense, self)


def from_rows(starts: Tensor, columns: Tensor, values: Tensor, num_columns: int) -> SparseMatrix:
    """Return the matrix with these entries, in rows one after the other."""
    rows = torch.searchsorted(starts, torch.arange(len(columns), device=columns.device), right=True) - 1
    order = columns.argsort(stable=True)
    return SparseMatrix(starts, columns, values, row_starts(columns[order], num_columns), rows[order], order)


def row_starts(rows: Tensor, num_rows: int) -> Tensor:
    """Return where each row begins (num_rows + 1,) in a sorted list of rows, and the length of the list."""
    return torch.searchsorted(rows.contiguous(), torch.arange(num_rows + 1, device=rows.device))


def drop(dropout: nn.Dropout, x: Tensor | SparseMatrix) -> Tensor | SparseMatrix:
    """Return `x` after dropout. Of a sparse matrix the entries alone are drawn: zeros stay zeros anyway."""
    return x._replace(values=dropout(x.values)) if isinstance(x, SparseMatrix) else dropout(x)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, matrix: SparseMatrix) -> Tensor:
        ctx.matrix = matrix
        # Detached: of what takes part in autograd, `embedding_bag` notes more than this needs, at ten times the cost.
        return _weighted_sums(matrix.starts, matrix.columns, matrix.values, dense.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        matrix = ctx.matrix
        values = matrix.values.index_select(0, matrix.order)
        return _weighted_sums(matrix.transposed_starts, matrix.transposed_columns, values, gradient.contiguous()), None


def _weighted_sums(starts: Tensor, columns: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    """Return row i as the sum of values[k] * dense[columns[k]] over the entries k of row i."""
    return F.embedding_bag(
        columns, dense, starts, mode="sum", per_sample_weights=values.to(dense.dtype), include_last_offset=True
    )
