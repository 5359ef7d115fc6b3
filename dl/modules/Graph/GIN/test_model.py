"""GIN against a twin graph by graph, torch_geometric's layer, the Weisfeiler-Lehman test, and through its recipe."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Graph.GIN import train
from dl.modules.Graph.GIN.model import GIN, GINLayer, build
from dl.modules.Graph.task import GraphClassification
from dl.modules.Graph.testing import DIRECTED, assert_equivariant, random_graph
from dl.mytorch import testing
from dl.mytorch.data import Batch, Splits
from dl.mytorch.data.graphs.batches import Graph, padded
from dl.mytorch.data.graphs.nodes import sorted_edges
from dl.mytorch.data.graphs.tu import fold_splits
from dl.mytorch.introspect import count_parameters
from dl.mytorch.optim import constant


def graphs(count: int, num_features: int = 3) -> Batch:
    """Return random graphs of 4 to 9 nodes. The class says whether most nodes have a neighbour of their own kind."""
    chance, made = torch.Generator().manual_seed(count), []
    for i in range(count):
        nodes = int(torch.randint(4, 10, (), generator=chance))
        kinds = torch.randint(num_features, (nodes,), generator=chance)
        edges = random_graph(nodes, 2 * nodes, seed=i)
        label = int((kinds[edges[0]] == kinds[edges[1]]).float().mean() > 0.35)
        made.append(Graph(torch.nn.functional.one_hot(kinds, num_features).float(), edges, label))
    return padded(made)


def inputs(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    batch = graphs(count)
    return batch["features"], batch["edges"], batch["sizes"]


class GraphTwin(nn.Module):
    """Equation 4.1 with the adjacency matrix of each graph, and the readout of section 4.2; in evaluation."""

    def __init__(self, model: GIN) -> None:
        super().__init__()
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        self.names = [name for name, _ in model.named_parameters()]
        self.statistics = {name: value.double() for name, value in model.named_buffers()}
        self.layers = len(model.layers)

    def forward(self, features: Tensor, edges: Tensor, sizes: Tensor) -> Tensor:
        weight = dict(zip(self.names, self.weights))

        def norm(x: Tensor, name: str) -> Tensor:
            mean, variance = (self.statistics[f"{name}.running_{kind}"] for kind in ("mean", "var"))
            return (x - mean) / (variance + 1e-5).sqrt() * weight[f"{name}.weight"] + weight[f"{name}.bias"]

        rows = []
        for x, pairs, (nodes, count) in zip(features, edges, sizes.tolist()):
            adjacency = torch.zeros(nodes, nodes, dtype=x.dtype)
            adjacency[pairs[1, :count], pairs[0, :count]] = 1
            x, score = x[:nodes], 0
            for i in range(self.layers + 1):
                if i:
                    x = (1 + weight.get(f"layers.{i - 1}.eps", 0)) * x + adjacency @ x
                    inside = f"layers.{i - 1}.mlp"
                    x = x @ weight[f"{inside}.linear1.weight"].T + weight[f"{inside}.linear1.bias"]
                    x = norm(x, f"{inside}.norm").relu() @ weight[f"{inside}.linear2.weight"].T
                    x = norm(x + weight[f"{inside}.linear2.bias"], f"norms.{i - 1}").relu()
                score = score + weight[f"readouts.{i}.weight"] @ x.sum(0) + weight[f"readouts.{i}.bias"]
            rows.append(score)
        return torch.stack(rows)


def trained(model: GIN) -> GIN:
    """Return the network with norms and epsilons as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, GINLayer) and module.eps is not None:
            nn.init.constant_(module.eps, 0.3)
    return model


@pytest.mark.parametrize("learn_eps", [False, True])
def test_network_is_its_twin_graph_by_graph_in_outputs_gradients_and_steps(learn_eps: bool) -> None:
    model = trained(build("tiny", learn_eps=learn_eps))
    testing.assert_same_as(model, GraphTwin(model), *inputs(), tolerance=1e-11)


def test_nodes_may_be_relabelled() -> None:
    assert_equivariant(trained(build("tiny")).layers[0], torch.randn(12, 3), random_graph())


def logits(model: GIN, *of: tuple[int, list[tuple[int, int]]]) -> Tensor:
    """Return the output for graphs of so many nodes, all features 1, with these edges."""
    made = [Graph(torch.ones(n, 3), sorted_edges(torch.tensor(pairs).T, n), 0) for n, pairs in of]
    batch = padded(made)
    return model.double().eval()(batch["features"].double(), batch["edges"], batch["sizes"])


def test_a_hexagon_and_two_triangles_are_the_same_to_it_as_to_the_weisfeiler_lehman_test() -> None:
    hexagon = [(i, (i + 1) % 6) for i in range(6)]
    triangles = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3)]
    path = [(i, i + 1) for i in range(5)]
    one, other, third = logits(trained(build("tiny")), (6, hexagon), (6, triangles), (6, path))
    assert torch.equal(one, other) and not torch.allclose(one, third)


def test_a_sum_tells_one_neighbour_from_two_which_means_and_maxima_do_not() -> None:
    layer = trained(build("tiny")).layers[0].eval()
    x = torch.ones(5, 3)
    output = layer(x, torch.tensor([[1, 3, 4], [0, 2, 2]]))  # node 0 has one neighbour, node 2 two of the same kind
    assert not torch.allclose(output[0], output[2])


def test_epsilon_is_a_parameter_only_where_it_is_learned() -> None:
    assert "layers.0.eps" in dict(build("gin_eps").named_parameters())
    assert not any("eps" in name for name in build("gin").state_dict())


def test_the_paper_s_network_for_mutag_has_the_counted_parameters() -> None:
    perceptrons = (7 * 16 + 16) + 3 * (16 * 16 + 16) + 4 * (16 * 16 + 16)
    norms, readouts = 8 * 2 * 16, (7 * 2 + 2) + 4 * (16 * 2 + 2)
    assert count_parameters(build("gin")) == perceptrons + norms + readouts == 2440


# ---- the recipe ----------------------------------------------------------------------------------------------------


def splits(config: train.Config) -> Splits:
    return fold_splits(config, graphs(40, 7), config.tested)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(model="tiny", epochs=3, batch_size=16, eval_every=1, save_every=1),
    lambda: graphs(8),
    splits=splits,
    task=GraphClassification,
    variants=[{}, {"learn_eps": True}],
    prepare=trained,
    inputs=inputs,
    overfit=[testing.Overfit(lr=2e-2)],
)


def test_the_rate_is_halved_after_equal_parts() -> None:
    schedule = train.halved(7)
    assert [schedule(step, 350) for step in (0, 49, 50, 99, 100, 349)] == [1, 1, 0.5, 0.5, 0.25, 0.5**6]
    assert repr(schedule) == "halved(7)" and constant()(0, 1) == 1


def test_recipe_learns(tmp_path: Path) -> None:
    config = train.Config(out=str(tmp_path), model="tiny", epochs=12, batch_size=16, plots=False, eval_every=6)
    history = train.main(config, splits(config))
    assert history[-2]["train"]["loss"] < history[0]["train"]["loss"] and history[0]["val"].keys() == {"loss", "top1_error"}


@pytest.mark.parametrize("fold", [-2, 10])
def test_a_fold_that_does_not_exist_is_refused(fold: int) -> None:
    with pytest.raises(ValueError, match="--fold has to be from 0 to 9, or -1"):
        train.Config(fold=fold)


def test_ten_seeds_test_ten_folds_and_a_fold_may_be_chosen() -> None:
    assert [train.Config(seed=seed).tested for seed in range(12)] == [*range(10), 0, 1]
    assert train.Config(seed=3, fold=7).tested == 7


@pytest.mark.parity
def test_a_layer_is_torch_geometric_s() -> None:
    library = pytest.importorskip("torch_geometric.nn")
    layer = trained(build("tiny", learn_eps=True).double().eval()).layers[0]
    conv = library.GINConv(layer.mlp, train_eps=True).double()
    conv.eps.data = layer.eps.data.clone()  # 0.3, which its constructor rounds to float32
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    expected, found = conv(x, DIRECTED), layer(x, DIRECTED)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    weights = torch.randn_like(expected)
    parameters = [x, *layer.mlp.parameters()]
    ours = torch.autograd.grad((found * weights).sum(), [*parameters, layer.eps])
    theirs = torch.autograd.grad((expected * weights).sum(), [*parameters, conv.eps])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    pooled = torch.zeros(2, 3, dtype=torch.float64).index_add(0, torch.tensor([0, 0, 1, 1, 1, 1]), x)
    torch.testing.assert_close(pooled, library.global_add_pool(x, torch.tensor([0, 0, 1, 1, 1, 1])), rtol=0, atol=1e-9)
