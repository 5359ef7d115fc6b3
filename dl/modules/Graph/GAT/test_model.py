"""GAT against a twin node by node, torch_geometric's layers, the laws of attention, and through its recipe."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Graph.GAT import train
from dl.modules.Graph.GAT.model import GAT, GraphAttention, build, edge_softmax, with_loops
from dl.modules.Graph.recipe import feature_matrix
from dl.modules.Graph.testing import (
    DIRECTED,
    assert_equivariant,
    assert_parts_are_independent,
    karate_splits,
    random_graph,
    random_task,
)
from dl.mytorch import testing
from dl.mytorch.data.graphs import nodes
from dl.mytorch.introspect import count_parameters


class NodeTwin(nn.Module):
    """Each head of each node by itself, as equations 1 to 6 (and 7 of the paper on v2) say it."""

    def __init__(self, model: GAT, edges: Tensor, v2: bool) -> None:
        super().__init__()
        self.parts = [(layer.heads, layer.concat) for layer in model.layers]
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        self.edges, self.v2 = edges, v2

    def forward(self, x: Tensor) -> Tensor:
        weights = iter(self.weights)
        for i, (heads, concat) in enumerate(self.parts):
            first, second, third = next(weights), next(weights), next(weights)
            bias = next(weights)
            per_head = first.shape[1] // heads
            outputs = []
            for h in range(heads):
                block = slice(h * per_head, (h + 1) * per_head)
                rows = []
                for node in range(len(x)):
                    near = sorted({*self.edges[0][self.edges[1] == node].tolist()} - {node}) + [node]
                    values = x[near] @ first[:, block]
                    if self.v2:
                        mixed = F.leaky_relu(values + x[node] @ second[:, block], 0.2)
                        attention = (mixed @ third[h]).softmax(0)
                    else:
                        attention = F.leaky_relu(values @ second[h] + x[node] @ first[:, block] @ third[h], 0.2).softmax(0)
                    rows.append(attention @ values)
                outputs.append(torch.stack(rows))
            x = torch.cat(outputs, 1) if concat else sum(outputs) / heads
            x = x + bias
            x = F.elu(x) if i + 1 < len(self.parts) else x
        return x


class On(nn.Module):
    """A network on a graph that stays the same."""

    def __init__(self, model: GAT, edges: Tensor) -> None:
        super().__init__()
        self.model, self.edges = model, edges

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, self.edges)


@pytest.mark.parametrize("v2", [False, True], ids=["GAT", "GATv2"])
@pytest.mark.parametrize("all_dropouts", [False, True])
def test_network_is_its_twin_node_by_node_in_outputs_gradients_and_steps(v2: bool, all_dropouts: bool) -> None:
    model = build("tiny", v2=v2, all_dropouts=all_dropouts, last_heads=3)
    testing.assert_same_as(On(model, DIRECTED), NodeTwin(model, DIRECTED, v2), torch.randn(6, 5), tolerance=1e-11, steps=2)


def test_attention_sums_to_1_over_the_sources_of_a_node_and_itself() -> None:
    layer = GraphAttention(5, 3, heads=2)
    attention = layer.attend(torch.randn(6, 5), DIRECTED)[1]
    targets = with_loops(DIRECTED, 6)[0][1]
    torch.testing.assert_close(torch.zeros(6, 2).index_add(0, targets, attention), torch.ones(6, 2))
    assert not attention[2].any()  # the given loop: node 2 has one as every node has
    assert attention[-1].tolist() == [1, 1]  # node 5 sees itself alone


def test_a_softmax_of_large_scores_is_finite() -> None:
    scores = torch.tensor([[1e4], [1e4], [-1e4]], requires_grad=True)
    weights = edge_softmax(scores, torch.tensor([0, 0, 1]), 2)
    assert weights.flatten().tolist() == [0.5, 0.5, 1]
    weights[0].sum().backward()
    assert scores.grad.isfinite().all()


def test_an_isolated_node_is_mapped_linearly() -> None:
    layer, x = GraphAttention(5, 3), torch.randn(6, 5)
    nn.init.normal_(layer.bias)
    torch.testing.assert_close(layer(x, DIRECTED)[5], x[5] @ layer.weight + layer.bias)


def rankings(layer: GraphAttention, nodes_: int = 6) -> Tensor:
    """Return how each node of a complete graph ranks all nodes, itself too."""
    pairs = torch.cartesian_prod(torch.arange(nodes_), torch.arange(nodes_)).T
    edges = pairs[:, pairs[0] != pairs[1]]
    attention = layer.attend(torch.randn(nodes_, 5), edges)[1]
    sources, targets = with_loops(edges, nodes_)[0]
    return torch.zeros(nodes_, nodes_).index_put((targets, sources), attention[:, 0]).argsort(1)


def test_attention_of_gat_is_static_and_that_of_v2_is_not() -> None:
    """Brody et al. 2022, section 3: all queries of a GAT head rank the keys the same."""
    assert len(rankings(GraphAttention(5, 8)).unique(dim=0)) == 1
    layer = GraphAttention(5, 8, v2=True)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.target_weight)
    assert len(rankings(layer).unique(dim=0)) > 1


@pytest.mark.parametrize("v2", [False, True])
def test_nodes_may_be_relabelled_and_graphs_be_parts_of_one(v2: bool) -> None:
    assert_equivariant(build("tiny", v2=v2), torch.randn(12, 5), random_graph())
    assert_parts_are_independent(build("tiny", v2=v2), lambda count: torch.randn(count, 5))


@pytest.mark.parametrize("all_dropouts", [False, True])
def test_sparse_features_are_dense_ones(all_dropouts: bool) -> None:
    graph, model = nodes.load("karate"), build("tiny", num_features=34, all_dropouts=all_dropouts)
    sparse = feature_matrix(graph)
    torch.testing.assert_close(model(sparse, graph.edges), model(sparse @ torch.eye(34), graph.edges))


def test_the_authors_dropouts_draw_a_mask_for_each_head_and_drop_the_values_too() -> None:
    x, edges = torch.ones(6, 1), DIRECTED[:, :0]
    heads = {}
    for all_dropouts in (False, True):
        layer = GraphAttention(1, 1, heads=200, dropout=0.6, all_dropouts=all_dropouts)
        nn.init.ones_(layer.weight)
        heads[all_dropouts] = layer(x, edges)[0].detach()  # input / 0.4 or 0, times attention / 0.4 or 0, times values likewise
    assert heads[False].unique().numel() <= 2  # one mask of the input for all heads
    assert heads[True].max() == pytest.approx(1 / 0.4**3) and 0 < (heads[True] > 0).float().mean() < 0.2  # 0.4^3 = 0.064


def test_the_paper_s_network_for_cora_has_92_373_parameters() -> None:
    first, last = 1433 * 64 + 2 * 64 + 64, 64 * 7 + 2 * 7 + 7
    assert count_parameters(build("gat")) == first + last == 92_373
    assert count_parameters(build("gatv2")) == first + last + 1433 * 64 - 64 + 64 * 7 - 7


# ---- the recipe ----------------------------------------------------------------------------------------------------


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="karate", model="tiny", epochs=3),
    lambda: {"nodes": torch.tensor([0, 3, 4, 9]), "labels": torch.tensor([0, 1, 2, 1])},
    splits=karate_splits,
    task=random_task,
    variants=[{}, {"v2": True}, {"all_dropouts": False}],
    overfit=[testing.Overfit(lr=3e-2), testing.Overfit({"v2": True}, lr=3e-2)],
    skip={"batch_independence": "the nodes of one graph see each other; graphs do not, see above"},
)


def test_the_penalty_is_on_all_weights_and_no_bias() -> None:
    model = build("tiny", v2=True)
    decayed, others = train.adam(0.01, 5e-4, train.all_weights, "weights")(model).param_groups
    assert len(decayed["params"]) == 6 and len(others["params"]) == 2 and others["weight_decay"] == 0


def test_the_checkpoint_is_the_first_of_the_least_validation_error(tmp_path: Path) -> None:
    config = train.Config(out=str(tmp_path), data="karate", model="tiny", epochs=12, lr=0.1, plots=False)
    history = train.main(config)
    errors = {record["step"]: record["val"]["top1_error"] for record in history if "val" in record}
    assert history[-1]["step"] == min(errors, key=errors.get) and history.test["top1_error"] <= 0.25


@pytest.mark.parity
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("v2", [False, True])
def test_a_layer_is_torch_geometric_s(v2: bool, concat: bool) -> None:
    library = pytest.importorskip("torch_geometric.nn")
    torch.set_default_dtype(torch.float64)
    try:
        conv = (library.GATv2Conv if v2 else library.GATConv)(5, 3, heads=2, concat=concat)
        layer = GraphAttention(5, 3, heads=2, concat=concat, v2=v2)
    finally:
        torch.set_default_dtype(torch.float32)
    pairs = [(layer.bias, conv.bias)]
    if v2:
        nn.init.zeros_(conv.lin_l.bias)
        nn.init.zeros_(conv.lin_r.bias)
        pairs += [(layer.weight, conv.lin_l.weight), (layer.target_weight, conv.lin_r.weight), (layer.score, conv.att)]
    else:
        pairs += [(layer.weight, conv.lin.weight), (layer.source_score, conv.att_src), (layer.target_score, conv.att_dst)]
    nn.init.normal_(conv.bias)
    for ours, theirs in pairs:
        ours.data = (theirs.data.T if ours.shape != theirs.shape[-ours.ndim :] else theirs.data).reshape(ours.shape).clone()
    x = torch.randn(6, 5, dtype=torch.float64)
    expected, found = conv(x, DIRECTED), layer(x, DIRECTED)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    weights = torch.randn_like(expected)
    ours = torch.autograd.grad((found * weights).sum(), [own for own, _ in pairs])
    theirs = torch.autograd.grad((expected * weights).sum(), [their for _, their in pairs])
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, (b.T if a.shape != b.shape[-a.ndim :] else b).reshape(a.shape), rtol=0, atol=1e-9)
