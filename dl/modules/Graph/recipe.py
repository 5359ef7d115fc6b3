"""What the recipes for the nodes of one graph share."""

from dataclasses import dataclass
from typing import Callable

import torch
from torch import nn

from dl.modules.Graph.sparse import SparseMatrix, from_rows
from dl.mytorch import TrainConfig
from dl.mytorch.config import flag
from dl.mytorch.data.graphs.nodes import SHAPES, NodeGraph
from dl.mytorch.optim import MakeOne, Shown


@dataclass(frozen=True)
class NodeConfig(TrainConfig):
    """The flags of a recipe for the nodes of one graph. A step is an epoch: all labelled nodes at once."""

    data: str = flag("cora", "cora and citeseer: citations; karate: a club of 34, bundled", choices=SHAPES)
    batch_size: int = flag(1000, "labelled nodes per forward, which reads the graph whole")
    weight_decay: float = flag(5e-4, "L2 penalty on weights, see the recipe for which")
    save_every: int = flag(50, "steps between two saves of the full state; 0 = each epoch")
    log_every: int = 10


def feature_matrix(graph: NodeGraph) -> SparseMatrix:
    """Return the features (N, F) of all nodes, whose rows sum to 1, but for those of nodes without features."""
    counts = graph.indptr.diff()
    values = (1 / counts.clamp(min=1)).repeat_interleave(counts)
    return from_rows(graph.indptr, graph.indices, values, graph.num_features)


def adam(lr: float, weight_decay: float, decayed: Callable[[nn.Module], list[nn.Parameter]], where: str) -> MakeOne:
    """Return Adam with an L2 penalty, which is part of the gradient (unlike AdamW's decay), on the parameters of `decayed`.

    `where` says in a word which these are, for the record of a run.
    """

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        chosen = decayed(model)
        known = {id(parameter) for parameter in chosen}
        others = [parameter for parameter in model.parameters() if id(parameter) not in known]
        groups = [{"params": chosen, "weight_decay": weight_decay}, {"params": others}]
        return torch.optim.Adam(groups, lr=lr)

    return Shown(optimizer, f"adam(lr={lr}, L2={weight_decay} on {where})")
