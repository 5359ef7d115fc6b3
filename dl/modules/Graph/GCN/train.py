"""Train a graph convolutional network on Cora, CiteSeer or the karate club.

    python -m dl.modules.Graph.GCN.train --data karate
    python -m dl.modules.Graph.GCN.train
    python -m dl.modules.Graph.GCN.train --data citeseer --out runs/Graph/GCN-citeseer

The checkpoint is that of the least validation loss over all epochs (the paper stops when it has not fallen for ten).
"""

from dataclasses import dataclass

import torch
from torch import nn

from dl.modules.Graph.GCN.model import GCN, PRESETS, build, normalized
from dl.modules.Graph.recipe import NodeConfig, adam, feature_matrix
from dl.modules.Graph.task import NodeClassification
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.graphs.nodes import SHAPES, node_graph, node_splits
from dl.mytorch.optim import constant


@dataclass(frozen=True)
class Config(NodeConfig):
    """Train GCN."""

    out: str = "runs/Graph/GCN"
    model: str = flag("gcn", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 200
    lr: float = 0.01


def build_model(config: Config) -> GCN:
    """Return the network that the config asks for."""
    num_features, num_classes = SHAPES[config.data]
    return build(config.model, num_features=num_features, num_classes=num_classes)


def first_layer(model: GCN) -> list[nn.Parameter]:
    """Return the parameters that decay: section 5.2 has the penalty on the first layer only."""
    return list(model.layers[0].parameters())


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    graph = node_graph(config)
    adjacency = normalized(graph.edges, graph.num_nodes).to(torch.float32)
    trainer = Trainer(
        model=build_model(config),
        task=NodeClassification((feature_matrix(graph), adjacency)),
        optimizer=adam(config.lr, config.weight_decay, first_layer, "the first layer"),
        schedule=constant(),
        config=config,
    )
    return trainer.fit(data or node_splits(config, graph))


if __name__ == "__main__":
    launch(main, Config)
