"""Graph convolutional network.

"Semi-Supervised Classification with Graph Convolutional Networks", Thomas N. Kipf, Max Welling, 2017,
https://arxiv.org/abs/1609.02907: a layer is a linear map, then a sum over each node and its neighbours, weighted by degrees.

"gcn" is the paper's for Cora and CiteSeer: one hidden layer of 16 units. "tiny" is for tests.

Deviations:
- Layers have a bias, after the sum, as in torch_geometric and in the authors' later code; equation 2 has none.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Graph.sparse import SparseMatrix, drop, from_rows, row_starts

# N nodes, E edges, F features, H hidden units, K classes


def normalized(edges: Tensor, num_nodes: int) -> SparseMatrix:
    """Return D^-1/2 (A + I) D^-1/2 (N, N), equation 2's renormalisation trick, of edges (2, E): sources, targets.

    Every node has one self-loop, nodes without an edge too; self-loops among `edges` count for nothing. A row is a target.
    The degree of a node is the number of edges that end in it.
    """
    nodes = torch.arange(num_nodes, device=edges.device)
    weights = torch.cat([(edges[0] != edges[1]).float(), torch.ones_like(nodes, dtype=torch.float32)])
    sources, targets = torch.cat([edges, torch.stack([nodes, nodes])], dim=1)  # (E + N,)
    degrees = torch.zeros(num_nodes, device=edges.device, dtype=torch.float64).index_add(0, targets, weights.double())
    values = weights * (degrees[sources] * degrees[targets]).rsqrt()  # a loop is there: no degree is 0
    order = targets.argsort(stable=True)
    return from_rows(row_starts(targets[order], num_nodes), sources[order], values[order], num_nodes)


class GraphConvolution(nn.Module):
    """Equation 2: H' = A_hat H W, and a bias."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.xavier_uniform_(self.weight)  # section 5.2: Glorot & Bengio 2010

    def forward(self, x: Tensor | SparseMatrix, adjacency: SparseMatrix) -> Tensor:
        return adjacency @ (x @ self.weight) + self.bias  # (N, F) -> (N, H)


class GCN(nn.Module):
    """Equation 9: two graph convolutions (or more), ReLU between them, dropout before each.

    forward: features (N, F), dense or a `SparseMatrix`, and edges (2, E) -> logits (N, K). In place of edges it takes what
    `normalized` makes of them, so that a graph that stays the same is normalised once.
    """

    def __init__(
        self, num_features: int = 1433, num_classes: int = 7, hidden: int = 16, layers: int = 2, dropout: float = 0.5
    ) -> None:
        super().__init__()
        sizes = [num_features, *[hidden] * (layers - 1), num_classes]
        self.layers = nn.ModuleList(GraphConvolution(a, b) for a, b in zip(sizes, sizes[1:]))
        self.dropout = nn.Dropout(dropout)
        self.act = nn.ReLU()

    def forward(self, features: Tensor | SparseMatrix, edges: Tensor | SparseMatrix) -> Tensor:
        adjacency = normalized(edges, features.shape[0]) if isinstance(edges, Tensor) else edges
        x = features
        for layer in self.layers[:-1]:
            x = self.act(layer(drop(self.dropout, x), adjacency))  # (N, F) -> (N, H)
        return self.layers[-1](drop(self.dropout, x), adjacency)  # (N, H) -> (N, K)


PRESETS: dict[str, dict[str, Any]] = {
    "gcn": {},
    "tiny": {"num_features": 5, "num_classes": 3, "hidden": 8, "dropout": 0.0},
}


def build(preset: str = "gcn", **overrides: Any) -> GCN:
    """Return a GCN by the name of its preset; `overrides` are arguments of `GCN`."""
    return GCN(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return the features, zeros (16, F), and the edges (2, 32) of a ring of 16 nodes."""
    nodes = torch.arange(16)
    ring = torch.stack([torch.cat([nodes.roll(1), nodes.roll(-1)]), torch.cat([nodes, nodes])])
    return torch.zeros(16, PRESETS[preset].get("num_features", 1433)), ring
