"""What the tests of graph networks share: small graphs, and what holds for every one of these networks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dl.modules.Graph.task import NodeClassification
from dl.mytorch.data.graphs.nodes import NodeGraph, load, node_splits, sorted_edges
from dl.mytorch.data.loader import Splits
from dl.mytorch.testing.twins import assert_within

# 6 nodes, directed, with a self-loop (2, 2); node 5 has no edge.
DIRECTED = torch.tensor([[1, 2, 2, 4, 0], [0, 0, 2, 3, 4]])
PATH = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])  # of 3 nodes


def random_graph(num_nodes: int = 12, num_edges: int = 20, seed: int = 0) -> Tensor:
    """Return the edges (2, E) of an undirected graph."""
    generator = torch.Generator().manual_seed(seed)
    return sorted_edges(torch.randint(num_nodes, (2, num_edges), generator=generator), num_nodes)


def random_task() -> NodeClassification:
    """Return the task of classifying the nodes of `random_graph`, of five random features each."""
    torch.manual_seed(0)
    return NodeClassification((torch.randn(12, 5), random_graph()))


def karate_splits(config: object) -> Splits:
    """Return the karate club in batches of the config's size."""
    return node_splits(config, load("karate"))


def other_test_labels(graph: NodeGraph) -> NodeGraph:
    """Return the graph with a wrong label for each node of the test."""
    return graph._replace(labels=graph.labels.index_put((graph.test,), 1 - graph.labels[graph.test]))


@torch.no_grad()
def assert_equivariant(model: nn.Module, x: Tensor, edges: Tensor, tolerance: float = 1e-12) -> None:
    """Relabelling the nodes permutes the output; the order of the edges changes nothing but rounding. float64."""
    model, x = model.double().eval(), x.double()
    expected = model(x, edges)
    order = torch.randperm(len(x))
    places = order.argsort()
    assert_within("output of relabelled nodes", model(x[order], places[edges]), expected[order], tolerance)
    shuffled = edges[:, torch.randperm(edges.shape[1])]
    assert_within("output with edges in another order", model(x, shuffled), expected, tolerance)


@torch.no_grad()
def assert_parts_are_independent(model: nn.Module, make: Callable[[int], Tensor], tolerance: float = 1e-12) -> None:
    """Two graphs as one, without an edge between them, have the outputs of each alone. float64. `make`: features of N nodes."""
    model = model.double().eval()
    graphs = [(make(n).double(), random_graph(n, 2 * n, seed=n)) for n in (5, 8)]
    (x, edges), (other, more) = graphs
    together = model(torch.cat([x, other]), torch.cat([edges, more + 5], dim=1))
    for alone, part in zip((model(*graph) for graph in graphs), together.split([5, 8])):
        assert_within("output of a part", part, alone, tolerance)
