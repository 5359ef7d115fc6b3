"""Draw what a trained network makes of its graph: the nodes as a t-SNE map, and the attention on edges.

    python -m dl.modules.Graph.draw runs/Graph/GCN          # nodes.png: hidden units of the nodes, coloured by class
    python -m dl.modules.Graph.draw runs/Graph/GAT-karate   # and attention.png: of a small graph, if the network has attention

The figures are written into the folder of the run, or into `--out`.
"""

import argparse
import sys
from typing import TYPE_CHECKING, Sequence

import torch
from torch import Tensor, nn

from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.DataMining.TSNE.tsne import tsne
from dl.modules.Graph.recipe import feature_matrix
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path
from dl.mytorch.data.graphs.nodes import NodeGraph, node_graph
from dl.mytorch.introspect import Probe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALL = 200  # nodes at most of a graph whose edges can be told apart in a figure


@torch.no_grad()
def node_map(model: nn.Module, graph: NodeGraph, perplexity: float = 30.0) -> Tensor:
    """Return a map (N, 2) of the hidden units that the last layer reads, of all nodes."""
    with Probe(model, "act") as probe:
        model(feature_matrix(graph), graph.edges)
    return tsne(probe["act"], min(perplexity, (graph.num_nodes - 1) / 3))


@torch.no_grad()
def first_attention(model: nn.Module, graph: NodeGraph) -> Tensor:
    """Return the first layer's attention, mean of its heads, on each edge and, after these, on each node's loop (E + N,)."""
    return model.layers[0].attend(feature_matrix(graph), graph.edges)[1].mean(1)


def layout(graph: NodeGraph, iterations: int = 300) -> Tensor:
    """Return places (N, 2) by springs: neighbours attract, all nodes repel each other.

    Fruchterman & Reingold 1991, https://doi.org/10.1002/spe.4380211102, from eigenvectors of the normalised adjacency matrix.
    """
    near = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=torch.float64)
    near[graph.edges[1], graph.edges[0]] = 1
    scale = (near.sum(1) + 1).rsqrt()
    matrix = scale[:, None] * (near + torch.eye(graph.num_nodes)) * scale
    places = torch.linalg.eigh(matrix).eigenvectors[:, [-2, -3]]
    noise = torch.rand(places.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    places = places / places.abs().max() + 0.01 * noise  # nodes with the same neighbours would stay at one place
    distance = graph.num_nodes**-0.5  # that of two nodes at rest
    for step in range(iterations):
        apart = places[:, None] - places  # (N, N, 2)
        lengths = apart.norm(dim=-1, keepdim=True).clamp(min=1e-3)
        force = (apart / lengths * (distance**2 / lengths - near[..., None] * lengths**2 / distance)).sum(1)
        size = force.norm(dim=1, keepdim=True).clamp(min=1e-9)
        places = places + force / size * size.clamp(max=0.1 * (1 - step / iterations))
    return places - places.mean(0)


def attention_figure(graph: NodeGraph, attention: Tensor) -> "Figure":
    """Return the graph with an arrow from each source to each target, as dark and wide as the attention (E + N,) is large.

    The radius of a node shows the attention to itself.
    """
    from matplotlib import colormaps
    from matplotlib.patches import FancyArrowPatch

    places = layout(graph).tolist()
    fig = plot.figure(9, 7)
    axes = fig.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.axis("off")
    edges, loops = attention.split([graph.edges.shape[1], graph.num_nodes])
    for source, target, weight in zip(*graph.edges.tolist(), edges.tolist()):
        arrow = FancyArrowPatch(
            places[source],
            places[target],
            connectionstyle="arc3,rad=0.12",
            arrowstyle="-|>",
            mutation_scale=6 + 10 * weight,
            shrinkA=7,
            shrinkB=7,
            linewidth=0.3 + 5 * weight,
            color=colormaps["Greys"](0.25 + 0.75 * weight / attention.max().item()),
        )
        axes.add_patch(arrow)
    for node, (x, y) in enumerate(places):
        colour = colormaps["tab10"](graph.labels[node].item())
        axes.scatter(x, y, s=60 + 500 * loops[node].item(), color=colour, zorder=3, edgecolors="white")
        axes.text(x, y, str(node), fontsize=7, ha="center", va="center", color="white", zorder=4)
    return fig


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description="Draw a graph as a trained GCN or GAT sees it.", prog="python -m dl.modules.Graph.draw")
    parser.add_argument("run", type=user_path, help="folder of a run of GCN or GAT")
    parser.add_argument("--out", type=user_path, help="folder of the figures (default: that of the run)")
    parser.add_argument("--perplexity", type=float, default=30.0, help="how many neighbours count (default: %(default)s)")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    run = Run.open(options.run, "Graph/GCN", "Graph/GAT")
    graph, model = node_graph(run.config), run.model()
    out = options.out or run.path
    out.mkdir(parents=True, exist_ok=True)
    names = [plot.shortened(graph.names[label], 12) for label in graph.labels.tolist()]
    plot.save_figure(plot.scatter(node_map(model, graph, options.perplexity), names), out / "nodes.png")
    print(f"drawn: {out / 'nodes.png'}, {graph.num_nodes:,} nodes")
    if run.recipe == "Graph/GAT" and graph.num_nodes <= SMALL:
        plot.save_figure(attention_figure(graph, first_attention(model, graph)), out / "attention.png")
        print(f"drawn: {out / 'attention.png'}, {graph.edges.shape[1]:,} edges")


if __name__ == "__main__":
    sys.exit(main())
