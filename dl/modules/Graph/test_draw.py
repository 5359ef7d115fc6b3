"""The figures of a graph: where nodes are put, and the command."""

from pathlib import Path

import pytest
import torch

from dl.modules.Graph import draw
from dl.modules.Graph.GAT import train
from dl.modules.Graph.GAT.model import build
from dl.mytorch import plot
from dl.mytorch.data.graphs.nodes import load


def test_neighbours_are_put_near_each_other_and_no_two_nodes_at_one_place() -> None:
    graph = load("karate")
    places = draw.layout(graph, iterations=100)
    distances = torch.cdist(places, places)
    assert distances[graph.edges[0], graph.edges[1]].mean() < 0.7 * distances.mean()
    assert distances.fill_diagonal_(1).min() > 0.01


def test_a_map_has_a_place_for_each_node() -> None:
    graph, model = load("karate"), build("tiny", num_features=34, num_classes=2).eval()
    places = draw.node_map(model, graph)
    assert places.shape == (34, 2) and places.isfinite().all()
    attention = draw.first_attention(model, graph)
    assert attention.shape == (156 + 34,) and attention.sum() == pytest.approx(34, abs=1e-3)


@pytest.mark.slow
def test_the_command_draws_the_nodes_of_a_run_and_its_attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = train.Config(out=str(tmp_path / "run"), data="karate", model="tiny", epochs=2, plots=False)
    monkeypatch.setattr(plot, "curves", lambda history: None)
    train.main(config)
    draw.main([str(tmp_path / "run"), "--out", str(tmp_path / "figures")])
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["attention.png", "nodes.png"]
