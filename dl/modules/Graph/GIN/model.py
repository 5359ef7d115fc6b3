"""Graph isomorphism network.

"How Powerful are Graph Neural Networks?", Keyulu Xu, Weihua Hu, Jure Leskovec, Stefanie Jegelka, 2019,
https://arxiv.org/abs/1810.00826: sums over neighbours, then a perceptron, tell apart all graphs that the Weisfeiler-Lehman test
does. Means and maxima do not.

"gin" is the paper's for bioinformatics with 16 hidden units, GIN-0; "gin_eps" learns epsilon, "gin32" has 32 units. "tiny" is
for tests.

Deviations: none of architecture; as in the authors' code, https://github.com/weihua916/powerful-gnns, a batch norm and ReLU
follow each perceptron too, and the graph's score is a sum of linear maps, one of each layer's pooled features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Graph.union import union
from dl.mytorch.layers import sequential

# B graphs, N nodes of all graphs of a batch, E edges, F features, H hidden units, K classes


class GINLayer(nn.Module):
    """Equation 4.1: h' = MLP((1 + eps) h + sum of the neighbours' h). The perceptron has a hidden layer with batch norm.

    `learn_eps`: epsilon is a parameter; else it is 0.
    """

    def __init__(self, in_features: int, hidden: int, learn_eps: bool = False) -> None:
        super().__init__()
        eps = torch.zeros(1)
        self.eps = nn.Parameter(eps) if learn_eps else None
        self.mlp = sequential(
            linear1=nn.Linear(in_features, hidden),
            norm=nn.BatchNorm1d(hidden),
            act=nn.ReLU(),
            linear2=nn.Linear(hidden, hidden),
        )

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        itself = x if self.eps is None else (1 + self.eps) * x
        return self.mlp(itself.index_add(0, edges[1], x.index_select(0, edges[0])))  # (N, F) -> (N, H)


class GIN(nn.Module):
    """Section 4.2: layers, each followed by batch norm and ReLU; the nodes of every layer are summed to features of the graph.

    Args:
        layers: of which the first is the input itself, as the authors count.
        dropout: of each layer's scores.

    forward: features (B, most nodes, F), edges (B, 2, most edges) and sizes (B, 2), the nodes and edges of each graph without
    padding -> logits (B, K). Graphs of a batch see each other through batch norm in training, and not at all in evaluation.
    """

    def __init__(
        self,
        num_features: int = 7,
        num_classes: int = 2,
        hidden: int = 16,
        layers: int = 5,
        dropout: float = 0.5,
        learn_eps: bool = False,
    ) -> None:
        super().__init__()
        sizes = [num_features, *[hidden] * (layers - 1)]
        self.layers = nn.ModuleList(GINLayer(size, hidden, learn_eps) for size in sizes[:-1])
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in sizes[:-1])
        self.readouts = nn.ModuleList(nn.Linear(size, num_classes) for size in sizes)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, edges: Tensor, sizes: Tensor) -> Tensor:
        x, edges, graph, num_graphs = union(features, edges, sizes)  # (N, F), (2, E), (N,)
        scores = self.score(0, x, graph, num_graphs)
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms), start=1):
            x = self.act(norm(layer(x, edges)))  # (N, F) -> (N, H)
            scores = scores + self.score(i, x, graph, num_graphs)
        return scores  # (B, K)

    def score(self, layer: int, x: Tensor, graph: Tensor, num_graphs: int) -> Tensor:
        """Return what a layer adds to the logits (B, K): its nodes, summed in each graph, and mapped linearly."""
        pooled = x.new_zeros(num_graphs, x.shape[1]).index_add(0, graph, x)  # (N, H) -> (B, H)
        return self.dropout(self.readouts[layer](pooled))


PRESETS: dict[str, dict[str, Any]] = {
    "gin": {},
    "gin32": {"hidden": 32},
    "gin_eps": {"learn_eps": True},
    "tiny": {"num_features": 3, "hidden": 8, "layers": 3, "dropout": 0.0},
}


def build(preset: str = "gin", **overrides: Any) -> GIN:
    """Return a GIN by the name of its preset; `overrides` are arguments of `GIN`."""
    return GIN(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return two rings of 16 nodes: features, zeros (2, 16, F), edges (2, 2, 32) and sizes (2, 2)."""
    nodes = torch.arange(16)
    ring = torch.stack([torch.cat([nodes.roll(1), nodes.roll(-1)]), torch.cat([nodes, nodes])])
    features = torch.zeros(2, 16, PRESETS[preset].get("num_features", 7))
    return features, torch.stack([ring, ring]), torch.tensor([[16, 32], [16, 32]])
