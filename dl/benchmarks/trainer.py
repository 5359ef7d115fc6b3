"""Training speed and memory of `Trainer.fit` against a floor and against other people's loops.

    python -m dl.benchmarks.trainer                           all contenders, 5 rounds, Fashion-MNIST
    python -m dl.benchmarks.trainer --only ours --rounds 9    the floor is always there: ratios are to it
    OMP_NUM_THREADS=1 python -m dl.benchmarks.trainer         on one thread

All train LeNet ("modern") on the same 54,000 images (9,000 of the sample) in shuffled batches of 128, by SGD with
momentum 0.9 and weight decay, in fp32.

- ours           the recipe dl.modules.CNN.LeNet.train with everything on: TensorBoard, history, bar, errors, checkpoints;
                 but images laid out as the others have them
- ours-recipe    the same with channels_last, as the recipe has it
- floor          a loop by hand over float tensors in memory, already normalised; it logs and saves nothing
- torchvision    the same loop over torchvision's data set (ToTensor, Normalize) and a DataLoader without workers
- torchvision-2  with 2 workers
- lightning      its defaults (logger, bar, checkpoints), and the loss logged; whole batches cut from memory by index
- transformers   Hugging Face's Trainer with its defaults; whole batches cut from memory by index

What is timed, in seconds of the wall: training alone. Of ours, the `training_seconds` of speed.json, which is all of
`fit` but evaluation and figures: opening the run (a call of git), layer summary, loggers and saves are in. Of
Lightning, `on_train_start` to `on_train_end`, with validation off; of transformers, its `train_runtime`. Out for all:
imports, reading the data, the test. Ours and the peers pay their start-up once a run.

Each measurement is a separate process that first trains 10 steps on the bundled sample, to have imports, threads and
allocator warm. So no contender inherits another's settings or heap, luck in memory layout and thread placement is
drawn again each time, and the same process tells its peak memory (resident set, without DataLoader's workers, with the
data). How rounds go is said in `dl.benchmarks.common`. Progress bars draw into a make-believe terminal.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from statistics import median
from typing import Any, Sequence

import torch

from dl.benchmarks import common
from dl.benchmarks.trainer_peers import BATCH, CONTENDERS, Job
from dl.cli.command import command
from dl.cli.records import write
from dl.mytorch.logger import peak_memory

SAMPLE = "fashion_mnist-sample"
MISSING = "not installed: pip install -e .[bench]"


class _Terminal(io.StringIO):
    """Progress bars take it for a terminal, and nobody sees them."""

    def isatty(self) -> bool:
        return True


def measure(name: str, data: str, epochs: int, steps: int) -> dict[str, Any]:
    """Train once, in this process, after a short training that is not timed."""
    training, _ = CONTENDERS[name]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(_Terminal()), contextlib.redirect_stderr(_Terminal()):
            training(Job(SAMPLE, 1, 10, Path(folder, "warm")))
            examples, seconds = training(Job(data, epochs, steps, Path(folder, "timed")))
    return {"examples": examples, "seconds": seconds, "peak_memory_bytes": peak_memory(torch.device("cpu"))}


def measure_apart(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run `measure` in a separate process."""
    asked = ["--one", name, "--data", options.data, "--epochs", str(options.epochs), "--steps", str(options.steps)]
    done = subprocess.run([sys.executable, "-m", __spec__.name, *asked], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_rounds(names: list[str], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """name -> what was measured, one record a round; every round begins with the next contender."""
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in common.turns(names, turn):
            record = measure_apart(name, options)
            records[name].append(record)
            speed = record["examples"] / record["seconds"]
            print(f"round {turn + 1} of {options.rounds}: {name:14} {speed:8,.0f} samples/s", file=sys.stderr, flush=True)
    return records


def summarize(records: list[dict[str, Any]], floor: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of one contender: medians over rounds, and ratios to the floor of the same round."""
    speeds, floors = ([r["examples"] / r["seconds"] for r in of] for of in (records, floor))
    memory = [r["peak_memory_bytes"] for r in records]
    return {
        "samples_per_second": median(speeds),
        "lowest": min(speeds),
        "highest": max(speeds),
        "ratio_to_floor": common.ratio(speeds, floors),
        "peak_memory_bytes": median(memory),
        "memory_ratio_to_floor": common.ratio(memory, [r["peak_memory_bytes"] for r in floor]),
        "rounds": records,
    }


def table(results: dict[str, Any]) -> str:
    """Return the results as readable text, the fastest first."""
    lines = [f"{'':14} {'samples/s':>9} {'(lowest - highest)':>19} {'of floor':>9} {'peak MB':>8} {'of floor':>9}"]
    for name, r in sorted(results.items(), key=lambda item: -item[1].get("samples_per_second", 0)):
        if "missing" in r:
            lines.append(f"{name:14} {r['missing']}")
            continue
        spread = f"({r['lowest']:,.0f} - {r['highest']:,.0f})"
        speed = f"{r['samples_per_second']:9,.0f} {spread:>19} {r['ratio_to_floor']:9.2f}"
        lines.append(f"{name:14} {speed} {r['peak_memory_bytes'] / 1e6:8,.0f} {r['memory_ratio_to_floor']:9.2f}")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Trainer.fit against a floor and other people's loops.")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the training set per measurement")
    parser.add_argument("--steps", type=int, default=0, help="steps per measurement; above 0 it overrides --epochs")
    parser.add_argument("--data", default="fashion_mnist", choices=["fashion_mnist", SAMPLE], help="what to train on")
    names, some = list(CONTENDERS), common.some_of(CONTENDERS, always="floor")
    parser.add_argument(
        "--only",
        type=some,
        default=names,
        help="names of the contenders, separated by commas; the floor (a loop by hand) is always measured",
    )
    parser.add_argument("--quick", action="store_true", help="only see that it works: one round of 20 steps on the sample")
    parser.add_argument("--one", choices=CONTENDERS, help="measure this one once, in this process, and print JSON")
    options = common.parse(parser, argv)
    if options.quick:
        options.rounds, options.steps, options.data = 1, 20, SAMPLE
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    if options.one:
        print(json.dumps(measure(options.one, options.data, options.epochs, options.steps)))
        return
    there = [name for name in options.only if all(importlib.util.find_spec(package) for package in CONTENDERS[name][1])]
    settings = {name: getattr(options, name) for name in ("data", "epochs", "steps", "rounds")}
    about = common.about_this_machine(options.command) | settings | {"batch_size": BATCH}
    records = run_rounds(there, options)
    results = {n: summarize(records[n], records["floor"]) if n in there else {"missing": MISSING} for n in options.only}
    write(about | {"results": results}, options.out)
    print(f"{about['device']}, {options.data}, {options.rounds} rounds\n{table(results)}\nwritten to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
