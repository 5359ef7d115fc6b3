"""How cost grows: time and memory of a step over batch, image size, context and index, beside the law that it should follow.

    python -m dl.benchmarks.growth
    python -m dl.benchmarks.growth --only "ResNet, image size"

A training step is forward pass, loss, backward pass and SGD, in fp32 on one thread; a search is one call with 100 queries. Each
point is a separate process: a step to warm up, then the median of the processor time of the others. Memory is the most that
the process held beyond what it had after a step of the smallest value (Linux notes it). The law goes through the
largest point: a straight line where both axes are logarithmic, except for attention, whose work is linear in short contexts and
quadratic in long ones. A point above its law has a cost that does not grow: operations that are too small for the processor,
and the memory of weights and libraries.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.benchmarks import common
from dl.benchmarks.scale import PeakMemory
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.CNN.ResNet.model import build as resnet
from dl.modules.DataMining.neighbours import Exact
from dl.modules.Diffusion.DDPM.model import build as ddpm
from dl.modules.GPT.GPT2.model import build as gpt2
from dl.mytorch import plot
from dl.mytorch.optim import sgd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 4  # the first of which warms up
DIM, VECTORS, QUERIES = 128, 512, 100
Work = Callable[[], Any]


def classify(batch: int, size: int) -> Work:
    images, labels = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.long)
    return _trained(resnet("resnet20"), lambda model: F.cross_entropy(model(images), labels))


def denoise(batch: int, size: int) -> Work:
    images, times = torch.randn(batch, 1, size, size), torch.zeros(batch, dtype=torch.long)
    return _trained(ddpm("small"), lambda model: F.mse_loss(model(images, times), images))


def predict(batch: int, length: int) -> Work:
    tokens = torch.zeros(batch, length, dtype=torch.long)
    model = gpt2("char", dim=DIM, max_length=length, dropout=0.0)
    return _trained(model, lambda model: F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()))


def search(vectors: int) -> Work:
    index, queries = Exact(torch.randn(vectors, VECTORS)), torch.randn(QUERIES, VECTORS)
    return lambda: index.search(queries)


def _trained(model: torch.nn.Module, loss: Callable[[torch.nn.Module], Tensor]) -> Work:
    """Return a training step."""
    optimizer = sgd(0.01)(model.train())

    def step() -> None:
        loss(model).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class Series(NamedTuple):
    """What grows: the family whose figure has it, values, what to do for one, and the laws of time and memory."""

    family: str
    values: tuple[int, ...]
    prepare: Callable[[int], Work]
    time: Callable[[int], float]
    memory: Callable[[int], float]


def linear(x: int) -> float:
    return x


def square(x: int) -> float:
    return x * x


def attended(n: int) -> float:
    """Multiply-adds of a block for a text of n tokens: its matrices, and attention to those before, n / 2 on average."""
    return n * (12 * DIM**2 + DIM * n)


BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
SERIES = {
    "ResNet, batch": Series("cnn", BATCHES, lambda n: classify(n, 32), linear, linear),
    "ResNet, image size": Series("cnn", (16, 32, 64, 128, 256), lambda n: classify(4, n), square, square),
    "GPT-2, batch": Series("language", BATCHES, lambda n: predict(n, 64), linear, linear),
    "GPT-2, context": Series("language", (64, 128, 256, 512, 1024, 2048, 4096), lambda n: predict(1, n), attended, linear),
    "DDPM, batch": Series("diffusion", BATCHES[:6], lambda n: denoise(n, 28), linear, linear),
    "DDPM, image size": Series("diffusion", (16, 32, 64, 96), lambda n: denoise(2, n), square, square),
    "search, index": Series("search", (2500, 5000, 10000, 20000, 40000, 80000, 160000), search, linear, linear),
}


def measure(name: str, value: int) -> dict[str, float]:
    """Return seconds and bytes of a step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    SERIES[name].prepare(SERIES[name].values[0])()  # what libraries hold from now on
    seconds = []
    with PeakMemory(torch.device("cpu"), streamed=False) as peak:
        step = SERIES[name].prepare(value)
        for _ in range(STEPS):
            started = time.process_time()
            step()
            seconds.append(time.process_time() - started)
    return {"value": value, "seconds": median(seconds[1:]), "bytes": peak.bytes}


def draw(family: str, found: dict[str, list[dict[str, float]]]) -> "Figure":
    """Time above, memory below, a column for each series of `family`."""
    names = [name for name in found if SERIES[name].family == family]
    fig = plot.figure(4.6 * len(names), 6)
    fig.subplots_adjust(
        left=0.75 / (4.6 * len(names)), right=1 - 0.3 / (4.6 * len(names)), bottom=0.09, top=0.95, wspace=0.25, hspace=0.25
    )
    for column, name in zip(fig.subplots(2, len(names), squeeze=False).T, names):
        rows, series = found[name], SERIES[name]
        values = [row["value"] for row in rows]
        labels = [f"{value / 1000:g}k" if values[-1] > 10_000 else f"{value:,}" for value in values]
        for axes, law, (key, unit, factor) in zip(
            column, (series.time, series.memory), (("seconds", "ms a step", 1e3), ("bytes", "MB", 1e-6))
        ):
            measured = [factor * row[key] for row in rows]
            expected = [measured[-1] * law(value) / law(values[-1]) for value in values]
            axes.loglog(values, measured, "o", color="tab:blue", label="measured")
            axes.loglog(values, expected, "-", color="tab:gray", label="law")
            axes.set_xticks(values, labels=labels, minor=False)
            axes.minorticks_off()
            axes.set_ylabel(unit)
            axes.grid(alpha=0.3)
            axes.legend()
        column[0].set_title(name)
        column[1].set_xlabel(name.partition(", ")[2])
    return fig


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Time and memory of a step, and the laws that they follow.")
    some = common.some_of(SERIES, separator=";")
    parser.add_argument("--only", type=some, default=list(SERIES), help="series, by semicolons; default: all")
    parser.add_argument("--one", nargs=2, metavar=("SERIES", "VALUE"), help="measure one point in this process")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    found: dict[str, list[dict[str, float]]] = {}
    for name in options.only:
        for value in SERIES[name].values:
            asked = [sys.executable, "-m", "dl.benchmarks.growth", "--one", name, str(value)]
            done = subprocess.run(asked, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found.setdefault(name, []).append(json.loads(done.stdout))
            row = found[name][-1]
            print(f"{name:20} {value:8,}  {1e3 * row['seconds']:10,.1f} ms  {row['bytes'] / 1e6:8,.1f} MB", flush=True)
    write(common.about_this_machine(options.command) | {"series": found}, options.out)
    for family in dict.fromkeys(SERIES[name].family for name in found):
        plot.save_figure(draw(family, found), Path(options.out).with_name(f"{Path(options.out).stem}-{family}.png"))


if __name__ == "__main__":
    sys.exit(main())
