"""GCN and GAT on Cora and CiteSeer: the error of each seed, and seconds of a run beside torch_geometric's.

    OMP_NUM_THREADS=1 python -m dl.benchmarks.graphs --cpu-time
    OMP_NUM_THREADS=1 python -m dl.benchmarks.graphs --cpu-time --models GCN --data cora --seeds 20

Ours is the recipe as `python -m dl.modules.Graph.GCN.train --no-plots` runs it: training, an evaluation each epoch,
checkpoints, the test. torch_geometric's is the same network, built of its layers, in the loop of its examples: features as a
dense matrix, a step and an evaluation each epoch. It runs for --peer-epochs epochs after two that do not count, and its seconds
are multiplied to those of the recipe's epochs. Both take turns in one process.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.benchmarks import common
from dl.cli import catalogue
from dl.cli.command import command
from dl.cli.records import write
from dl.mytorch.data.graphs.nodes import NodeGraph, load

MODELS, DATA = ["GCN", "GAT"], ["cora", "citeseer"]


class Peer(nn.Module):
    """The networks of torch_geometric's examples gcn.py and gat.py."""

    def __init__(self, name: str, num_features: int, num_classes: int) -> None:
        super().__init__()
        from torch_geometric.nn import GATConv, GCNConv

        self.name, self.dropout = name, 0.5 if name == "GCN" else 0.6
        if name == "GCN":
            self.first, self.last = GCNConv(num_features, 16), GCNConv(16, num_classes)
        else:
            self.first = GATConv(num_features, 8, heads=8, dropout=0.6)
            self.last = GATConv(64, num_classes, heads=1, concat=False, dropout=0.6)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.first(F.dropout(x, self.dropout, self.training), edges)
        x = x.relu() if self.name == "GCN" else F.elu(x)
        return self.last(F.dropout(x, self.dropout, self.training), edges)


class PeerLoop:
    """A step and an evaluation, as the examples have them."""

    def __init__(self, name: str, graph: NodeGraph) -> None:
        self.model = Peer(name, graph.num_features, len(graph.names))
        self.graph = graph
        counts = graph.indptr.diff()
        self.x = torch.zeros(graph.num_nodes, graph.num_features)
        nodes = torch.arange(graph.num_nodes).repeat_interleave(counts)
        self.x[nodes, graph.indices] = (1 / counts.clamp(min=1)).repeat_interleave(counts)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01, weight_decay=5e-4)

    def epoch(self) -> None:
        """Train for a step, then count who is right in each part."""
        graph = self.graph
        self.model.train()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(self.x, graph.edges)[graph.train], graph.labels[graph.train]).backward()
        self.optimizer.step()
        with torch.no_grad():
            predictions = self.model.eval()(self.x, graph.edges).argmax(1)
            for part in (graph.train, graph.val, graph.test):
                (predictions[part] == graph.labels[part]).sum().item()


def run(name: str, data: str, seed: int) -> float:
    """Return the error on the test of the recipe's run, in a folder that is deleted."""
    train = catalogue.module(f"Graph/{name}", "train")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        config = train.Config(out=str(Path(folder) / "run"), data=data, seed=seed, plots=False, device="cpu")
        return train.main(config).test["top1_error"]


def measured(name: str, data: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the errors of all seeds, and the seconds of ours and of the peer, a pair for each seed."""
    epochs = catalogue.module(f"Graph/{name}", "train").Config().epochs
    errors, ours, theirs = [], [], []
    peer = PeerLoop(name, load(data)) if options.peer_epochs else None
    for _ in range(2 if peer else 0):
        peer.epoch()
    for seed in range(options.seeds):
        seconds, error = common.timed(lambda: run(name, data, seed), options.clock)
        errors.append(error)
        ours.append(round(seconds, 3))
        if peer and seed < 5:
            seconds, _ = common.timed(lambda: [peer.epoch() for _ in range(options.peer_epochs)], options.clock)
            theirs.append(round(seconds * epochs / options.peer_epochs, 3))
        print(f"{name} {data} seed {seed}: {1 - error:.1%} right, {ours[-1]:.1f} s", file=sys.stderr, flush=True)
    return {"epochs": epochs, "errors": errors, "seconds": {"ours": ours, "torch_geometric": theirs}}


def line(name: str, data: str, found: dict[str, Any]) -> str:
    """Return a row of the table: mean and std of the share that is right, seconds, and their ratio."""
    right, seconds = [100 * (1 - error) for error in found["errors"]], found["seconds"]
    spread = f" ± {stdev(right):.2f}" if len(right) > 1 else ""
    text = f"{name:4} {data:9} {mean(right):6.2f}{spread} % right, {len(right)} seeds, {mean(seconds['ours']):6.1f} s"
    if not seconds["torch_geometric"]:
        return text
    return f"{text}, {common.ratio(seconds['ours'], seconds['torch_geometric']):.2f} of torch_geometric's"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "GCN and GAT on Cora and CiteSeer, beside torch_geometric.", cpu_time=True)
    parser.add_argument("--models", type=common.some_of(MODELS), default=MODELS, help="some of GCN,GAT, separated by commas")
    parser.add_argument("--data", type=common.some_of(DATA), default=DATA, help="some of cora,citeseer, separated by commas")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each (default: %(default)s)")
    parser.add_argument("--peer-epochs", type=int, default=10, help="of torch_geometric, for each of five seeds; 0 = none")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    about = common.about_this_machine(options.command)
    runs: dict[str, Any] = {}
    for name in options.models:
        for data in options.data:
            runs[f"{name} {data}"] = measured(name, data, options)
            write(about | {"clock": "cpu" if options.cpu_time else "wall", "runs": runs}, options.out)
    print(about["device"], *(line(*name.split(), found) for name, found in runs.items()), f"written to {options.out}", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
