"""The graphs of a batch as one graph, whose parts are not connected: a layer then needs to know nothing of batches."""

from typing import NamedTuple

import torch
from torch import Tensor

# B graphs, N nodes of all of them, E edges of all of them, F features


class Union(NamedTuple):
    """Graphs as one graph."""

    features: Tensor  # (N, F)
    edges: Tensor  # (2, E)
    graph: Tensor  # (N,): the graph of each node
    num_graphs: int


def union(features: Tensor, edges: Tensor, sizes: Tensor) -> Union:
    """Return the graphs of a padded batch as one, without the padding. Edges stay sorted by target."""
    nodes, counts = sizes[:, 0], sizes[:, 1]
    there = torch.arange(features.shape[1], device=sizes.device) < nodes[:, None]  # (B, most nodes)
    present = torch.arange(edges.shape[2], device=sizes.device) < counts[:, None]
    offsets = nodes.cumsum(0) - nodes
    moved = (edges + offsets[:, None, None]).transpose(0, 1)  # (B, 2, most edges) -> (2, B, most edges)
    graph = torch.arange(len(sizes), device=sizes.device).repeat_interleave(nodes)
    return Union(features[there], moved[:, present], graph, len(sizes))
