"""Speed of exact search beside faiss's flat index, and of plain torch: 60,000 vectors of 512 numbers, the five nearest.

    python -m dl.benchmarks.search
    python -m dl.benchmarks.search --rounds 9 --vectors 10000

faiss is installed by the extra [search]. Each task is one call with all its queries: one query and 1,000 under L2, 50 under
L1. "plain torch" is the obvious way: the full matrix of distances (|q|^2 - 2qx + |x|^2 for L2, cdist for L1), then topk.

A round times one call of each, see `dl.benchmarks.common`; ratios are to faiss, or without it to plain torch. One process,
warmed by a call.
"""

import argparse
import sys
from functools import partial
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.DataMining.neighbours import Exact

TASKS = {"one query, L2": (1, "l2"), "1,000 queries, L2": (1000, "l2"), "50 queries, L1": (50, "l1")}
TOP = 5


def by_faiss(vectors: Tensor, distance: str) -> Callable[[Tensor], Any] | None:
    """Return the flat index of faiss, on as many threads as torch has; None when it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlat(vectors.shape[1], {"l1": faiss.METRIC_L1, "l2": faiss.METRIC_L2}[distance])
    index.add(vectors.numpy())
    return lambda queries: index.search(queries.numpy(), TOP)


def by_torch(vectors: Tensor, distance: str) -> Callable[[Tensor], Any]:
    """Return the search as one would write it first."""
    squares = vectors.square().sum(1)

    def search(queries: Tensor) -> Any:
        if distance == "l2":
            distances = torch.addmm(squares, queries, vectors.T, alpha=-2) + queries.square().sum(1, keepdim=True)
        else:
            distances = torch.cdist(queries, vectors, p=1)
        return distances.topk(TOP, largest=False)

    return search


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Speed of exact search beside faiss.")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each contender")
    parser.add_argument("--vectors", type=int, default=60_000, help="how many there are to search")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (torch.randn(n, 512, generator=generator) for n in (options.vectors, 1000))
    exact = Exact(vectors)
    about = common.about_this_machine(options.command)
    speeds: dict[str, common.Speeds] = {}
    for task, (count, distance) in TASKS.items():
        contenders = {"faiss": by_faiss(vectors, distance), "plain torch": by_torch(vectors, distance)}
        contenders["ours"] = lambda queries: exact.search(queries, TOP, distance)
        present = {name: partial(search, queries[:count]) for name, search in contenders.items() if search}
        speeds[task] = common.rates(common.seconds(present, options.rounds, warm_ups=1), count)
        print(f"{task}\n{common.table(speeds[task], 'queries/s')}", flush=True)
    write(about | {"vectors": options.vectors, "rounds": options.rounds, "queries_per_second": speeds}, options.out)
    print(f"{about['device']}, {options.vectors:,} vectors of 512; written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
