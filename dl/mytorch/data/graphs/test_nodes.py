"""The karate club, the order of edges, and which nodes train, validate and test."""

import pytest
import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.graphs import nodes


def test_the_karate_club_has_34_members_78_friendships_and_splits_in_halves() -> None:
    graph = nodes.load("karate")
    assert graph.num_nodes == 34 and graph.edges.shape == (2, 2 * 78)
    assert graph.labels.bincount().tolist() == [17, 17] and graph.names == ("Hi", "Officer")
    assert graph.labels[0] == 0 and graph.labels[33] == 1
    assert graph.edges[1].bincount().max() == 17  # member 33 met most others; member 0 met 16
    assert torch.equal(graph.indices, torch.arange(34))


def test_every_edge_is_there_in_both_directions_once_and_no_node_is_its_own_neighbour() -> None:
    edges = nodes.sorted_edges(torch.tensor([[2, 0, 2, 1, 0], [0, 2, 0, 1, 1]]), num_nodes=5)
    assert edges.tolist() == [[1, 2, 0, 0], [0, 0, 1, 2]]


def test_edges_are_sorted_by_target_whatever_their_order_in_a_file() -> None:
    pairs = torch.randint(20, (2, 60))
    edges = nodes.sorted_edges(pairs, 20)
    assert (edges[1].diff() >= 0).all()
    assert torch.equal(edges, nodes.sorted_edges(pairs[:, torch.randperm(60)].flip(0), 20))


def test_an_edge_to_a_node_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 3"):
        nodes.sorted_edges(torch.tensor([[0], [3]]), 3)


def test_each_node_is_in_at_most_one_part_and_batches_say_which() -> None:
    graph = nodes.load("karate")
    parts = nodes.node_splits(TrainConfig(out="x", data="karate", batch_size=8), graph)
    seen = [torch.cat([batch["nodes"] for batch in part.batches()]) for part in parts]
    assert [len(part) for part in seen] == [4, 10, 20] and torch.cat(seen).sort().values.equal(torch.arange(34))
    for batch in parts.test.batches():
        assert torch.equal(batch["labels"], graph.labels[batch["nodes"]])
    assert parts.names == graph.names


def test_another_set_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="--data pubmed: this recipe's function loads cora, citeseer, karate"):
        nodes.node_graph(TrainConfig(out="x", data="pubmed"))
