"""Graphs padded to one size."""

import torch

from dl.mytorch.data.graphs.batches import Graph, padded
from dl.mytorch.data.loader import Loader


def test_every_tensor_of_a_batch_has_a_row_for_each_graph() -> None:
    graphs = [
        Graph(torch.ones(2, 3), torch.tensor([[1, 0], [0, 1]]), 1),
        Graph(torch.full((3, 3), 2.0), torch.empty(2, 0, dtype=torch.int64), 0),
    ]
    batch = padded(graphs)
    assert batch["sizes"].tolist() == [[2, 2], [3, 0]] and batch["labels"].tolist() == [1, 0]
    assert batch["features"].sum((1, 2)).tolist() == [6, 18] and batch["features"].shape == (2, 3, 3)
    assert batch["edges"].tolist() == [[[1, 0], [0, 1]], [[0, 0], [0, 0]]]
    (cut,) = Loader(batch, 5).batches()
    assert cut.keys() == batch.keys()
