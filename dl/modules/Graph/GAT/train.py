"""Train a graph attention network on Cora, CiteSeer or the karate club.

    python -m dl.modules.Graph.GAT.train --data karate
    python -m dl.modules.Graph.GAT.train
    python -m dl.modules.Graph.GAT.train --data citeseer --out runs/Graph/GAT-citeseer

The checkpoint is the first of those with the least validation error, over all epochs.
"""

from dataclasses import dataclass

from torch import nn

from dl.modules.Graph.GAT.model import GAT, PRESETS, build
from dl.modules.Graph.recipe import NodeConfig, adam, feature_matrix
from dl.modules.Graph.task import NodeClassification
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.graphs.nodes import SHAPES, node_graph, node_splits
from dl.mytorch.optim import constant


@dataclass(frozen=True)
class Config(NodeConfig):
    """Train GAT."""

    out: str = "runs/Graph/GAT"
    model: str = flag("gat", "preset of the network, see model.py", choices=PRESETS)
    all_dropouts: bool = flag(True, "the further dropouts of the authors' code, see model.py")
    epochs: int = 300
    lr: float = 0.005


def build_model(config: Config) -> GAT:
    """Return the network that the config asks for."""
    num_features, num_classes = SHAPES[config.data]
    return build(config.model, num_features=num_features, num_classes=num_classes, all_dropouts=config.all_dropouts)


def all_weights(model: GAT) -> list[nn.Parameter]:
    """Return the parameters that decay: in the authors' code, all but the biases."""
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    graph = node_graph(config)
    trainer = Trainer(
        model=build_model(config),
        task=NodeClassification((feature_matrix(graph), graph.edges), monitor="top1_error"),
        optimizer=adam(config.lr, config.weight_decay, all_weights, "weights"),
        schedule=constant(),
        config=config,
    )
    return trainer.fit(data or node_splits(config, graph))


if __name__ == "__main__":
    launch(main, Config)
