"""Speed of exact search beside faiss's flat index, and of plain torch: 60,000 vectors of 512 numbers, the five nearest.

    python -m dl.benchmarks.search
    python -m dl.benchmarks.search --rounds 9 --vectors 10000

faiss is installed by the extra [search]. Each task is one call with all its queries: one query and 1,000 under L2, 50 under
L1. "plain torch" is the obvious way: the full matrix of distances (|q|^2 - 2qx + |x|^2 for L2, cdist for L1), then topk.

A round times one call of each, in an order that begins with the next contender every round; ratios to faiss are taken
within a round, and all figures are medians over rounds. One process, warmed by a call.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, Sequence

import torch
from torch import Tensor

from dl.benchmarks.trainer import about_this_machine
from dl.modules.DataMining.neighbours import Exact
from dl.mytorch.config import user_path
from dl.mytorch.files import write_json

RESULTS = Path(__file__).parent / "results" / "search.json"
TASKS = {"one query, L2": (1, "l2"), "1,000 queries, L2": (1000, "l2"), "50 queries, L1": (50, "l1")}
TOP = 5


def by_faiss(vectors: Tensor, distance: str) -> Callable[[Tensor], Any] | None:
    """The flat index of faiss, on as many threads as torch has; None when it is not installed."""
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlat(vectors.shape[1], {"l1": faiss.METRIC_L1, "l2": faiss.METRIC_L2}[distance])
    index.add(vectors.numpy())
    return lambda queries: index.search(queries.numpy(), TOP)


def by_torch(vectors: Tensor, distance: str) -> Callable[[Tensor], Any]:
    """The obvious way."""
    squares = vectors.square().sum(1)

    def search(queries: Tensor) -> Any:
        if distance == "l2":
            distances = torch.addmm(squares, queries, vectors.T, alpha=-2) + queries.square().sum(1, keepdim=True)
        else:
            distances = torch.cdist(queries, vectors, p=1)
        return distances.topk(TOP, largest=False)

    return search


def measure(contenders: dict[str, Callable[[Tensor], Any]], queries: Tensor, rounds: int) -> dict[str, list[float]]:
    """name -> queries per second, one figure a round."""
    names = list(contenders)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = time.perf_counter()
            contenders[name](queries)
            if turn >= 0:
                speeds[name].append(len(queries) / (time.perf_counter() - started))
    return speeds


def table(task: str, speeds: dict[str, list[float]]) -> str:
    """The figures of a task as people read them."""
    lines = [f"{task:20} {'queries/s':>10} {'of faiss':>9}"]
    for name, own in speeds.items():
        ratio = f"{median(a / b for a, b in zip(own, speeds['faiss'])):9.2f}" if "faiss" in speeds else ""
        lines.append(f"  {name:18} {median(own):10,.1f} {ratio}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed of exact search beside faiss.")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each contender")
    parser.add_argument("--vectors", type=int, default=60_000, help="how many there are to search")
    parser.add_argument("--out", type=user_path, default=RESULTS, help="JSON file to write")
    options = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)
    vectors, queries = (torch.randn(n, 512, generator=generator) for n in (options.vectors, 1000))
    exact = Exact(vectors)
    about = about_this_machine(__spec__.name, argv)
    speeds = {}
    for task, (count, distance) in TASKS.items():
        contenders = {"faiss": by_faiss(vectors, distance), "plain torch": by_torch(vectors, distance)}
        contenders["ours"] = lambda queries: exact.search(queries, TOP, distance)
        present = {name: search for name, search in contenders.items() if search}
        speeds[task] = measure(present, queries[:count], options.rounds)
        print(table(task, speeds[task]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(about | {"vectors": options.vectors, "rounds": options.rounds, "queries_per_second": speeds}, options.out)
    print(f"{about['device']}, {options.vectors:,} vectors of 512; written to {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
