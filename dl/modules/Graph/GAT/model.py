"""Graph attention network.

"Graph Attention Networks", Petar Velickovic, Guillem Cucurull, Arantxa Casanova, Adriana Romero, Pietro Lio, Yoshua Bengio,
2018, https://arxiv.org/abs/1710.10903: a node takes a mean of its neighbours and itself, with weights that attention computes.
With `v2` attention is that of "How Attentive are Graph Attention Networks?", Brody, Alon & Yahav 2022,
https://arxiv.org/abs/2105.14491, in which the ranking of the neighbours depends on the node that asks.

"gat" is the paper's for Cora and CiteSeer; "gatv2" the same with the other attention. "tiny" is for tests.

Deviations:
- The authors' code, https://github.com/PetarV-/GAT, drops more than the paper says: each head draws its own mask of the input,
  and the projected features are dropped once more before the sum. `all_dropouts` does so; without it, as in torch_geometric,
  all heads share one mask of the input.
- Projections and scores have no biases, as in the papers; the authors' code has them in the scores, torch_geometric's GATv2
  in the projections.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Graph.sparse import SparseMatrix, drop

# N nodes, E edges, F features, H heads, D units of a head, K classes


def with_loops(edges: Tensor, num_nodes: int) -> tuple[Tensor, Tensor]:
    """Return edges (2, E + N) with a self-loop for each node, and a mask (E + N,) of the given loops, which do not count."""
    nodes = torch.arange(num_nodes, device=edges.device)
    given = F.pad(edges[0] == edges[1], (0, num_nodes))
    return torch.cat([edges, torch.stack([nodes, nodes])], dim=1), given


def edge_softmax(scores: Tensor, targets: Tensor, num_nodes: int) -> Tensor:
    """Return the softmax of scores (E, H) over the edges that end in the same node, equation 2."""
    index = targets[:, None].expand_as(scores)
    highest = scores.new_full((num_nodes, scores.shape[1]), -torch.inf).scatter_reduce(0, index, scores.detach(), "amax")
    weights = (scores - highest.index_select(0, targets)).exp()
    sums = weights.new_zeros(num_nodes, scores.shape[1]).index_add(0, targets, weights)
    return weights / sums.index_select(0, targets)


class GraphAttention(nn.Module):
    """Equations 1 to 6: scores, a softmax over neighbours, a weighted mean; heads are joined, or averaged in the last layer.

    Args:
        concat: join the heads (equation 5), else take their mean (equation 6).
        dropout: of the input and of the attention.
        v2: attention of Brody et al. 2022, equation 7.
        all_dropouts: those of the authors' code, see above.

    forward: x (N, F) and edges (2, E) -> (N, H * D), or (N, D). `attend` returns the attention (E + N, H) too.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        heads: int = 1,
        concat: bool = True,
        dropout: float = 0.0,
        v2: bool = False,
        all_dropouts: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.concat, self.v2, self.all_dropouts = heads, concat, v2, all_dropouts
        self.weight = nn.Parameter(torch.empty(in_features, heads * out_features))  # of sources, and of targets but for v2
        if v2:
            self.target_weight = nn.Parameter(torch.empty(in_features, heads * out_features))
            self.score = nn.Parameter(torch.empty(heads, out_features))
        else:
            self.source_score = nn.Parameter(torch.empty(heads, out_features))  # the two halves of a in equation 3
            self.target_score = nn.Parameter(torch.empty(heads, out_features))
        self.bias = nn.Parameter(torch.zeros(heads * out_features if concat else out_features))
        self.input_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)
        for name, parameter in self.named_parameters():
            if name != "bias":
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor | SparseMatrix, edges: Tensor) -> Tensor:
        return self.attend(x, edges)[0]

    def attend(self, x: Tensor | SparseMatrix, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output, and the attention of each edge, those of the loops last."""
        num_nodes = x.shape[0]
        (sources, targets), given = with_loops(edges, num_nodes)
        from_sources, of_targets = self.projected(x)  # (N, H, D) each
        scores = self.scores(from_sources, of_targets, sources, targets).masked_fill(given[:, None], -torch.inf)
        attention = edge_softmax(scores, targets, num_nodes)  # (E + N, H)
        values = self.dropout(from_sources) if self.all_dropouts else from_sources
        messages = self.dropout(attention)[..., None] * values.index_select(0, sources)  # (E + N, H, D)
        total = values.new_zeros(values.shape).index_add(0, targets, messages)  # (N, H, D)
        return (total.flatten(1) if self.concat else total.mean(1)) + self.bias, attention

    def projected(self, x: Tensor | SparseMatrix) -> tuple[Tensor, Tensor]:
        """Return W x (N, H, D), for nodes as sources and as targets: the same, but for v2."""
        weights = (self.weight, self.target_weight) if self.v2 else (self.weight,)
        if self.all_dropouts:
            parts = [weight.chunk(self.heads, dim=1) for weight in weights]
            inputs = [drop(self.input_dropout, x) for _ in range(self.heads)]
            found = [torch.stack([x @ part for x, part in zip(inputs, of)], dim=1) for of in parts]
        else:
            x = drop(self.input_dropout, x)
            found = [(x @ weight).unflatten(1, (self.heads, -1)) for weight in weights]
        return found[0], found[-1]

    def scores(self, from_sources: Tensor, of_targets: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """Return e (E + N, H). In v2 the nonlinearity comes before the product with a, not after it."""
        if self.v2:
            return (
                F.leaky_relu(from_sources.index_select(0, sources) + of_targets.index_select(0, targets), 0.2) * self.score
            ).sum(-1)
        left, right = (from_sources * self.source_score).sum(-1), (of_targets * self.target_score).sum(-1)  # (N, H)
        return F.leaky_relu(left.index_select(0, sources) + right.index_select(0, targets), 0.2)


class GAT(nn.Module):
    """Section 3.3: layers of joined heads with ELU, then one of averaged heads.

    Args:
        hidden: units of a head.
        last_heads: heads of the last layer.

    forward: features (N, F), dense or a `SparseMatrix`, and edges (2, E) -> logits (N, K).
    """

    def __init__(
        self,
        num_features: int = 1433,
        num_classes: int = 7,
        hidden: int = 8,
        heads: int = 8,
        last_heads: int = 1,
        layers: int = 2,
        dropout: float = 0.6,
        v2: bool = False,
        all_dropouts: bool = True,
    ) -> None:
        super().__init__()
        sizes = [num_features, *[heads * hidden] * (layers - 1)]
        options = {"dropout": dropout, "v2": v2, "all_dropouts": all_dropouts}
        joined = [GraphAttention(size, hidden, heads, **options) for size in sizes[:-1]]
        last = GraphAttention(sizes[-1], num_classes, last_heads, concat=False, **options)
        self.layers = nn.ModuleList([*joined, last])
        self.act = nn.ELU()

    def forward(self, features: Tensor | SparseMatrix, edges: Tensor) -> Tensor:
        x = features
        for layer in self.layers[:-1]:
            x = self.act(layer(x, edges))  # (N, F) -> (N, H * D)
        return self.layers[-1](x, edges)  # (N, H * D) -> (N, K)


PRESETS: dict[str, dict[str, Any]] = {
    "gat": {},
    "gatv2": {"v2": True},
    "tiny": {"num_features": 5, "num_classes": 3, "hidden": 4, "heads": 2, "dropout": 0.0},
}


def build(preset: str = "gat", **overrides: Any) -> GAT:
    """Return a GAT by the name of its preset; `overrides` are arguments of `GAT`."""
    return GAT(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return the features, zeros (16, F), and the edges (2, 32) of a ring of 16 nodes."""
    nodes = torch.arange(16)
    ring = torch.stack([torch.cat([nodes.roll(1), nodes.roll(-1)]), torch.cat([nodes, nodes])])
    return torch.zeros(16, PRESETS[preset].get("num_features", 1433)), ring
