"""What benchmarks share: flags, rounds in which contenders take turns, tables of ratios, and what is recorded with figures.

A round runs each contender once, in an order that begins with the next contender every round, so that none is always the one
that finds a warm cache or a hot processor. Ratios are taken within a round; all figures are medians over rounds.
"""

import argparse
import importlib.util
import os
import platform
import shlex
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, Callable, Hashable, Iterable, Mapping, Sequence, TypeVar

import torch

from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path
from dl.mytorch.logger import device_name
from dl.mytorch.provenance import commit, machine

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "transformers",
    "accelerate",
    "diffusers",
    "lightly",
    "gymnasium",
    "stable_baselines3",
    "webdataset",
)

Name = TypeVar("Name", bound=Hashable)
Contenders = dict[str, Callable[[], Any]]  # name -> what a round times
Speeds = dict[str, list[float]]  # name -> a figure a round
Clock = Callable[[], float]


# ---- the command line ----------------------------------------------------------------------------------------------


def parser(module: str, description: str, cpu_time: bool = False) -> Parser:
    """Return the parser of `python -m MODULE` with the flags that all benchmarks have, and --cpu-time if that is asked for."""
    made = Parser(prog=f"python -m {module}", description=description)
    made.set_defaults(file=f"{module.rpartition('.')[2]}.json")
    made.add_argument("--out", type=user_path, help="JSON file to write (default: one in runs/benchmarks)")
    made.add_argument("--record", action="store_true", help="write the record of the READMEs' tables, in results/ here")
    if cpu_time:
        how = "count the seconds that the process had a core, which other programs change less; for one thread"
        made.add_argument("--cpu-time", action="store_true", help=how)
    return made


def parse(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, with `command`, what was asked for, `clock`, which --cpu-time changes, and `out`."""
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    options.command = shlex.join([*parser.prog.split(), *argv])
    by_core = getattr(options, "cpu_time", False)
    if by_core and torch.get_num_threads() > 1:
        parser.error("--cpu-time would add up the seconds of all threads: set OMP_NUM_THREADS=1")
    options.clock = time.process_time if by_core else time.perf_counter
    if options.out and options.record:
        parser.error("--out and --record name two files: give one of them")
    options.out = options.out or (where(options, options.file) if options.file else None)
    return options


def where(options: argparse.Namespace, file: str) -> Path:
    """Return the place of a file of this name: with the records, if --record was given."""
    return (RESULTS if options.record else Path("runs/benchmarks")) / file


def some_of(names: Iterable[str], always: str = "", separator: str = ",") -> Callable[[str], list[str]]:
    """Return the type of a flag that takes some of `names`, in their order; that of `always` is among them anyway."""
    names = list(names)

    def chosen(text: str) -> list[str]:
        if unknown := set(text.split(separator)) - set(names):
            raise argparse.ArgumentTypeError(f"{separator.join(unknown)}: there are {', '.join(names)}")
        return [name for name in names if name == always or name in text.split(separator)]

    return chosen


def about_this_machine(command: str) -> dict[str, Any]:
    """Return what somebody needs to know to measure the same again."""
    return {
        "command": command,
        "commit": commit(RESULTS.parent),
        "device": device_name(torch.device("cpu")),
        **machine(),
        # Processes that wanted a core in the minute before; Windows does not know.
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES if importlib.util.find_spec(p)},
    }


# ---- measuring -----------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Any], clock: Clock = time.perf_counter) -> tuple[float, Any]:
    """Return the seconds of the clock that `work` took, and what it returned."""
    started = clock()
    result = work()
    return clock() - started, result


def turns(names: Sequence[Name], turn: int) -> list[Name]:
    """Return the names in the order of a round."""
    first = turn % max(1, len(names))
    return [*names[first:], *names[:first]]


def seconds(
    contenders: Mapping[Name, Callable[[], Any]], rounds: int, clock: Clock = time.perf_counter, warm_ups: int = 2
) -> dict[Name, list[float]]:
    """Return the seconds of each contender in each round, after `warm_ups` rounds of memory, threads and compiled code."""
    taken: dict[Name, list[float]] = {name: [] for name in contenders}
    for turn in range(-warm_ups, rounds):
        for name in turns(list(contenders), turn):
            found, _ = timed(contenders[name], clock)
            if turn >= 0:
                taken[name].append(found)
        print(f"round {turn + 1} of {rounds}" if turn >= 0 else "warming up", file=sys.stderr, flush=True)
    return taken


def rates(taken: Mapping[str, Sequence[float]], items: float) -> Speeds:
    """Return items (images, tokens) per second, of `seconds` in which `items` of them were done."""
    return {name: [items / own for own in of] for name, of in taken.items()}


def ratio(own: Sequence[float], peer: Sequence[float]) -> float:
    """Return the median over rounds of own / peer."""
    return median(a / b for a, b in zip(own, peer))


def table(speeds: Speeds, unit: str, *peers: str) -> str:
    """Return the figures as a table: medians, their range, and ratios to the `peers`; default: to the first contender."""
    peers = peers or (next(iter(speeds)),)
    wide = max(14, *map(len, speeds))
    lines = [f"{'':{wide}} {unit:>11} {'(lowest - highest)':>19} " + " ".join(f"{'of ' + peer:>16}" for peer in peers)]
    for name, own in speeds.items():
        spread = f"({min(own):,.0f} - {max(own):,.0f})"
        shares = " ".join(f"{ratio(own, speeds[peer]):16.2f}" for peer in peers)
        lines.append(f"{name:{wide}} {median(own):11,.1f} {spread:>19} {shares}")
    return "\n".join(lines)
