"""One graph whose nodes have classes: a few labels are known in training, all nodes and edges are (transductive learning).

- cora, citeseer: papers that cite each other, see planetoid.py.
- karate: the 34 members of a karate club and their friendships, before it split in two (Zachary 1977, "An Information Flow
  Model for Conflict and Fission in Small Groups"). Bundled with this repository.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import sources
from dl.mytorch.data.loader import Loader, Splits
from dl.mytorch.data.sources import Source

# N nodes, E edges, both directions counted, F features

SHAPES = {"cora": (1433, 7), "citeseer": (3703, 6), "karate": (34, 2)}  # features and classes of each set
KARATE = Source(("karate",), {"karate.txt": None}, "git checkout data/karate brings it back")


class NodeGraph(NamedTuple):
    """A graph, the 0/1 features and labels of its nodes, and the nodes whose labels train, validate and test."""

    indptr: Tensor  # (N + 1,): the features of node i are `indices[indptr[i]:indptr[i + 1]]`
    indices: Tensor  # of the features that are 1, ascending in each node
    num_features: int
    labels: Tensor  # (N,)
    edges: Tensor  # (2, E): sources, targets; see `sorted_edges`
    train: Tensor  # of nodes, as are `val` and `test`
    val: Tensor
    test: Tensor
    names: tuple[str, ...]  # of the classes

    @property
    def num_nodes(self) -> int:
        """Return all nodes, those without an edge too."""
        return len(self.labels)


def sorted_edges(pairs: Tensor, num_nodes: int) -> Tensor:
    """Return the edges (2, E) of an undirected graph from pairs (2, M) of nodes, in order of the targets, then of the sources.

    Each edge is there in both directions, once; self-loops are left out. The order is fixed here, once, because sums over
    neighbours round differently in another one. Raises `ValueError` for a node that does not exist.
    """
    if pairs.numel() and not 0 <= pairs.min() <= pairs.max() < num_nodes:
        raise ValueError(f"an edge has a node that does not exist: there are {num_nodes}")
    sources_, targets = torch.cat([pairs, pairs.flip(0)], dim=1).long()
    keys = (targets * num_nodes + sources_)[sources_ != targets].unique()  # sorted
    return torch.stack([keys % num_nodes, keys // num_nodes])


def load(name: str) -> NodeGraph:
    """Return the set `name`. Raises `UserError` when it is unavailable, or a file is not the published one."""
    if name == "karate":
        return read_karate((sources.get(name, KARATE) / "karate.txt").read_text(encoding="utf-8"))
    from dl.mytorch.data.graphs import planetoid

    return planetoid.load(name)


def read_karate(text: str) -> NodeGraph:
    """Return the karate club from lines "member club" and "member member". Each member is its own feature.

    The two officers of each club train. Of the other members every third validates, the remaining ones test.
    """
    rows = [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    clubs = {int(member): club for member, club in rows if not club.isdigit()}
    names = tuple(dict.fromkeys(clubs.values()))
    pairs = torch.tensor([[int(a), int(b)] for a, b in rows if b.isdigit()]).T
    train = torch.tensor([0, 1, 32, 33])
    others = torch.tensor([node for node in range(len(clubs)) if node not in train.tolist()])
    validates = torch.arange(len(others)) % 3 == 0
    return NodeGraph(
        indptr=torch.arange(len(clubs) + 1),
        indices=torch.arange(len(clubs)),
        num_features=len(clubs),
        labels=torch.tensor([names.index(clubs[node]) for node in range(len(clubs))]),
        edges=sorted_edges(pairs, len(clubs)),
        train=train,
        val=others[validates],
        test=others[~validates],
        names=names,
    )


def node_graph(config: TrainConfig) -> NodeGraph:
    """Return the set that `config.data` names. Raises `UserError` for another name, and as `load` does."""
    if config.data not in SHAPES:
        raise UserError(f"--data {config.data}: this recipe's function loads {', '.join(SHAPES)}")
    return load(config.data)


def node_splits(config: TrainConfig, graph: NodeGraph) -> Splits:
    """Return loaders of the nodes whose labels train, validate and test.

    Batches: "nodes" (B,), which say of which rows of the network's output the loss is taken, and "labels" (B,).
    """
    parts = [{"nodes": nodes, "labels": graph.labels[nodes]} for nodes in (graph.train, graph.val, graph.test)]
    loaders = [Loader(part, config.batch_size, shuffle=i == 0, seed=config.seed) for i, part in enumerate(parts)]
    return Splits(*loaders, names=graph.names)
