"""GCN against worked numbers, a dense twin, torch_geometric's layer, and through its recipe."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Graph.GCN import train
from dl.modules.Graph.GCN.model import GCN, GraphConvolution, build, normalized
from dl.modules.Graph.recipe import feature_matrix
from dl.modules.Graph.testing import (
    DIRECTED,
    PATH,
    assert_equivariant,
    assert_parts_are_independent,
    karate_splits,
    other_test_labels,
    random_graph,
    random_task,
)
from dl.mytorch import testing
from dl.mytorch.data.graphs import nodes
from dl.mytorch.introspect import count_parameters


def dense(edges: Tensor, num_nodes: int) -> Tensor:
    return normalized(edges, num_nodes) @ torch.eye(num_nodes, dtype=torch.float64)


def test_the_path_of_three_nodes_has_the_worked_matrix() -> None:
    a = 6**-0.5
    expected = torch.tensor([[1 / 2, a, 0], [a, 1 / 3, a], [0, a, 1 / 2]], dtype=torch.float64)
    torch.testing.assert_close(dense(PATH, 3), expected, rtol=0, atol=1e-12)
    eigenvalues = torch.linalg.eigvalsh(dense(PATH, 3))
    torch.testing.assert_close(eigenvalues, torch.tensor([-1 / 6, 1 / 2, 1], dtype=torch.float64), rtol=0, atol=1e-12)


def test_one_directed_edge_gives_the_worked_numbers() -> None:
    layer = GraphConvolution(1, 1)
    nn.init.ones_(layer.weight)
    output = layer(torch.tensor([[1.0], [10.0]]), normalized(torch.tensor([[0], [1]]), 2))
    torch.testing.assert_close(output, torch.tensor([[1.0], [5 + 0.5**0.5]]))


def test_each_node_has_one_loop_whether_or_not_it_is_given_and_isolated_nodes_too() -> None:
    without = DIRECTED[:, DIRECTED[0] != DIRECTED[1]]
    doubled = torch.cat([DIRECTED, torch.tensor([[2, 5], [2, 5]])], dim=1)
    for edges in (DIRECTED, doubled):
        assert torch.equal(dense(edges, 6), dense(without, 6))
    assert dense(DIRECTED, 6)[5].tolist() == [0, 0, 0, 0, 0, 1] and dense(DIRECTED, 6).isfinite().all()


class DenseTwin(nn.Module):
    """Equation 9 with the matrix written out."""

    def __init__(self, model: GCN, edges: Tensor, num_nodes: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        adjacency = torch.eye(num_nodes, dtype=torch.float64)
        adjacency[edges[1], edges[0]] = 1
        scale = adjacency.sum(1).rsqrt()
        self.adjacency = scale[:, None] * adjacency * scale

    def forward(self, x: Tensor) -> Tensor:
        first, first_bias, second, second_bias = self.weights
        x = (self.adjacency @ x @ first + first_bias).clamp(min=0)
        return self.adjacency @ x @ second + second_bias


class On(nn.Module):
    """A network on a graph that stays the same."""

    def __init__(self, model: GCN, edges: Tensor) -> None:
        super().__init__()
        self.model, self.edges = model, edges

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, self.edges)


@pytest.mark.parametrize("edges", [DIRECTED, random_graph(6, 8)], ids=["directed", "undirected"])
def test_network_is_its_dense_twin_in_outputs_gradients_and_steps(edges: Tensor) -> None:
    model = build("tiny")
    testing.assert_same_as(On(model, edges), DenseTwin(model, edges, 6), torch.randn(6, 5), tolerance=1e-11)


def test_sparse_features_are_dense_ones() -> None:
    graph, model = nodes.load("karate"), build("tiny", num_features=34)
    sparse = feature_matrix(graph)
    torch.testing.assert_close(model(sparse, graph.edges), model(sparse @ torch.eye(34), graph.edges))


def test_nodes_may_be_relabelled_and_graphs_be_parts_of_one() -> None:
    assert_equivariant(build("tiny"), torch.randn(12, 5), random_graph())
    assert_parts_are_independent(build("tiny"), lambda count: torch.randn(count, 5))


def test_an_isolated_node_is_mapped_linearly_and_without_edges_the_network_is_a_perceptron() -> None:
    layer, x = GraphConvolution(5, 3), torch.randn(6, 5)
    torch.testing.assert_close(layer(x, normalized(DIRECTED, 6))[5], x[5] @ layer.weight + layer.bias)
    torch.testing.assert_close(layer(x, normalized(DIRECTED[:, :0], 6)), x @ layer.weight + layer.bias)


def test_dropout_acts_on_the_input_and_on_the_hidden_units() -> None:
    """In pygcn it does not act on the input."""
    model, x = build("tiny", dropout=1.0, layers=2), torch.randn(12, 5)
    for layer in model.layers:
        nn.init.ones_(layer.bias)
    inputs = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model(x, random_graph())
    assert not inputs[0].any() and not inputs[1].any()


def test_the_paper_s_network_for_cora_has_23_063_parameters() -> None:
    assert count_parameters(build("gcn")) == 1433 * 16 + 16 + 16 * 7 + 7 == 23_063
    weight = build("gcn").layers[0].weight
    bound = (6 / (1433 + 16)) ** 0.5  # Glorot's
    assert 0.99 * bound < weight.abs().max() <= bound


# ---- the recipe ----------------------------------------------------------------------------------------------------


def test_the_penalty_is_on_the_first_layer_only() -> None:
    model = build("tiny")
    optimizer = train.adam(0.01, 5e-4, train.first_layer, "the first layer")(model)
    decayed, others = optimizer.param_groups
    assert decayed["weight_decay"] == 5e-4 and others["weight_decay"] == 0
    assert {id(p) for p in decayed["params"]} == {id(p) for p in model.layers[0].parameters()}
    assert {id(p) for p in others["params"]} == {id(p) for p in model.layers[1].parameters()}


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="karate", model="tiny", epochs=3),
    lambda: {"nodes": torch.tensor([0, 3, 4, 9]), "labels": torch.tensor([0, 1, 2, 1])},
    splits=karate_splits,
    task=random_task,
    overfit=[testing.Overfit(lr=3e-2)],
    skip={"batch_independence": "the nodes of one graph see each other; graphs do not, see above"},
)


def run(out: Path, **flags: object) -> train.Config:
    return train.Config(**{"out": str(out), "data": "karate", "model": "tiny", "epochs": 20, "plots": False, **flags})


def test_recipe_learns_who_followed_whom_from_four_labels(tmp_path: Path) -> None:
    history = train.main(run(tmp_path, epochs=20, lr=0.1))
    assert history.test["top1_error"] <= 0.15 and history[0]["val"].keys() == {"loss", "top1_error"}


def test_the_checkpoint_is_that_of_the_least_validation_loss(tmp_path: Path) -> None:
    history = train.main(run(tmp_path, epochs=9, lr=0.5))
    losses = {record["step"]: record["val"]["loss"] for record in history if "val" in record}
    assert history[-1]["step"] == min(losses, key=losses.get)


def test_nothing_of_the_graph_is_in_float64_which_some_devices_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = []
    monkeypatch.setattr(train, "Trainer", lambda task, **_: tasks.append(task) or SimpleNamespace(fit=lambda data: None))
    train.main(run(tmp_path))
    assert all(tensor.dtype != torch.float64 for matrix in tasks[0].inputs for tensor in matrix)


def test_labels_of_the_test_play_no_part_before_the_test(tmp_path: Path) -> None:
    first, second = run(tmp_path / "first", epochs=5), run(tmp_path / "second", epochs=5)
    histories = [
        train.main(first, karate_splits(first)),
        train.main(second, nodes.node_splits(second, other_test_labels(nodes.load("karate")))),
    ]
    assert histories[0][:-1] == histories[1][:-1]
    assert histories[0].test != histories[1].test
    assert histories[0].test["top1_error"] + histories[1].test["top1_error"] == pytest.approx(1)


@pytest.mark.parity
def test_a_layer_is_torch_geometric_s() -> None:
    conv = pytest.importorskip("torch_geometric.nn").GCNConv(5, 3).double()
    layer = GraphConvolution(5, 3).double()
    layer.weight.data, layer.bias.data = conv.lin.weight.data.T.clone(), conv.bias.data.normal_().clone()
    for edges in (DIRECTED, torch.cat([DIRECTED, DIRECTED[:, 2:3]], dim=1), random_graph(6, 9)):
        x, y = (torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        x.requires_grad_()
        y.requires_grad_()
        expected, found = conv(y, edges), layer(x @ torch.eye(5, dtype=torch.float64), normalized(edges, 6))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        weights = torch.randn_like(expected)
        ours = torch.autograd.grad((found * weights).sum(), [x, layer.weight, layer.bias])
        theirs = torch.autograd.grad((expected * weights).sum(), [y, conv.lin.weight, conv.bias])
        for a, b in zip(ours, (theirs[0], theirs[1].T, theirs[2])):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_killed_at_ten_random_moments_a_run_resumes_to_the_same_bytes(tmp_path: Path, no_figures: None) -> None:
    """In a forked process each time, which has torch imported already: most kills meet the loop."""

    def start(out: str) -> multiprocessing.process.BaseProcess:
        config = run(tmp_path / out, epochs=300, save_every=7, device="cpu")
        process = multiprocessing.get_context("fork").Process(target=train.main, args=(config,))
        process.start()
        return process

    whole = start("whole")
    whole.join(600)
    assert whole.exitcode == 0
    chance, history = random.Random(0), tmp_path / "broken" / "history.json"
    for _ in range(10):
        process, before = start("broken"), history.stat().st_mtime_ns if history.exists() else 0
        deadline = time.monotonic() + 60
        while not history.exists() or history.stat().st_mtime_ns == before:  # until it has resumed
            assert process.is_alive() and time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL, "the run had finished: make it longer"
    last = start("broken")
    last.join(600)
    assert last.exitcode == 0
    testing.assert_same_runs(tmp_path / "whole", tmp_path / "broken")
