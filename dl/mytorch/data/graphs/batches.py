"""Graphs padded to one size: every tensor has a row for each graph, as a `Loader` cuts batches and ranks share them."""

from typing import NamedTuple, Sequence

import torch
from torch import Tensor

from dl.mytorch.data.loader import Batch

# B graphs, F features


class Graph(NamedTuple):
    """A graph with a class."""

    features: Tensor  # (nodes, F)
    edges: Tensor  # (2, edges): sources, targets; sorted by target
    label: int


def padded(graphs: Sequence[Graph]) -> Batch:
    """Return "features" (B, most nodes, F), "edges" (B, 2, most edges), "sizes" (B, 2), nodes and edges, and "labels" (B,)."""
    sizes = torch.tensor([[len(graph.features), graph.edges.shape[1]] for graph in graphs])
    nodes, edges = sizes.max(0).values.tolist()
    batch = {
        "features": torch.zeros(len(graphs), nodes, graphs[0].features.shape[1]),
        "edges": torch.zeros(len(graphs), 2, edges, dtype=torch.int64),
        "sizes": sizes,
        "labels": torch.tensor([graph.label for graph in graphs]),
    }
    for i, graph in enumerate(graphs):
        batch["features"][i, : len(graph.features)] = graph.features
        batch["edges"][i, :, : graph.edges.shape[1]] = graph.edges
    return batch
