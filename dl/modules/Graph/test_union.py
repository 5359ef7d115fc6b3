"""A padded batch as one graph."""

import torch

from dl.modules.Graph.union import union
from dl.mytorch.data.graphs.batches import Graph, padded


def test_a_batch_becomes_one_graph_without_padding_its_edges_sorted_by_target() -> None:
    pair, single = torch.tensor([[1, 0], [0, 1]]), torch.empty(2, 0, dtype=torch.int64)
    graphs = [Graph(torch.full((n, 1), float(n)), edges, 0) for n, edges in ((2, pair), (1, single), (3, pair))]
    batch = padded(graphs)
    joined = union(batch["features"], batch["edges"], batch["sizes"])
    assert joined.features.flatten().tolist() == [2, 2, 1, 3, 3, 3] and joined.graph.tolist() == [0, 0, 1, 2, 2, 2]
    assert joined.edges.tolist() == [[1, 0, 4, 3], [0, 1, 3, 4]] and joined.num_graphs == 3


def test_a_batch_of_no_graphs_is_a_graph_without_nodes() -> None:
    """A rank may have none."""
    joined = union(torch.zeros(0, 5, 2), torch.zeros(0, 2, 4, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64))
    assert joined.features.shape == (0, 2) and joined.edges.shape == (2, 0) and joined.num_graphs == 0
