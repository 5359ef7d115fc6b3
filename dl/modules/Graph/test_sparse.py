"""Products of sparse and dense matrices against dense ones."""

import torch
from torch import Tensor, nn

from dl.modules.Graph.recipe import feature_matrix
from dl.modules.Graph.sparse import SparseMatrix, drop, from_rows, row_starts
from dl.mytorch import testing
from dl.mytorch.data.graphs.nodes import load


def made(rows: int = 6, columns: int = 5) -> tuple[SparseMatrix, Tensor]:
    """Return a matrix with an empty row and an empty column, sparse and dense."""
    dense = torch.randn(rows, columns, dtype=torch.float64) * (torch.rand(rows, columns) < 0.5)
    dense[2], dense[:, 1] = 0, 0
    where = dense.nonzero()
    return from_rows(row_starts(where[:, 0], rows), where[:, 1], dense[dense != 0], columns), dense


def test_a_product_and_its_gradient_are_those_of_the_dense_matrix() -> None:
    sparse, dense = made()
    testing.assert_same_function(
        lambda factor: sparse @ factor, lambda factor: dense @ factor, torch.randn(5, 3), tolerance=1e-14
    )


def test_the_matrix_moves_with_its_values() -> None:
    sparse, dense = made()
    assert sparse.to(torch.float32).values.dtype == torch.float32 and sparse.to(torch.float32).columns.dtype == torch.int64
    torch.testing.assert_close(sparse.to("cpu").to(torch.float32) @ torch.eye(5), dense.float())


def test_dropout_of_the_entries_is_dropout_of_the_matrix() -> None:
    sparse, dense = made()
    dropout = nn.Dropout(0.4)
    torch.manual_seed(0)
    mean = sum(drop(dropout, sparse) @ torch.eye(5, dtype=torch.float64) for _ in range(400)) / 400
    torch.testing.assert_close(mean, dense, rtol=0.3, atol=0)
    assert drop(dropout.eval(), sparse).values.equal(sparse.values)


def test_rows_of_features_sum_to_1_and_empty_ones_stay_0() -> None:
    graph = load("karate")
    starts = torch.tensor([0, 2, 2, 5])
    features = feature_matrix(graph._replace(indptr=starts, indices=torch.tensor([0, 3, 1, 2, 3]), num_features=4))
    expected = torch.tensor([[1 / 2, 0, 0, 1 / 2], [0] * 4, [0, 1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(features @ torch.eye(4), expected)
