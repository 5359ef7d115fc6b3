"""Language models side by side, in nanoGPT's setting for a CPU: 2,000 steps of 12 x 64 characters of Shakespeare.

    OMP_NUM_THREADS=1 python -m dl.benchmarks.characters gpt2
    OMP_NUM_THREADS=1 python -m dl.benchmarks.characters qwen3_experts

All have about 0.8 million parameters (of a mixture of experts, those that a character passes), no dropout, the same optimizer,
schedule and batches, and are validated on the same blocks of 64 characters. A learning rate is tuned for each: RATES with seed
0, one further if the best is the first or the last, and two more seeds of the best. At one rate for all, a table of
architectures would measure the rate. The trainings are those of `python -m dl sweep`, and are resumed as these are.
"""

import argparse
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Sequence

from dl.benchmarks import common
from dl.cli import catalogue, sweep
from dl.cli.command import command
from dl.cli.records import best_record, read, write
from dl.cli.results import markdown_table, spread
from dl.cli.runs import Run
from dl.mytorch.command_line import parse as parse_config
from dl.mytorch.config import UserError, user_path
from dl.mytorch.introspect import count_parameters, flops_of
from dl.mytorch.lock import locked

FOLDER = common.RESULTS / "characters"
RATES, LOWER, HIGHER = ("0.001", "0.002", "0.003", "0.005"), "0.0005", "0.008"
SEEDS = (0, 1, 2)
CONTEXT = 64


class Network(NamedTuple):
    """What is trained: by which recipe, with which flags beside its defaults."""

    title: str
    recipe: str
    flags: tuple[str, ...] = ()


_AS_GPT = (
    *("--model=char_wide", "--steps=2000", "--eval-every=250", "--save-every=250", "--batch-size=12", "--weight-decay=0.1"),
    *("--warmup=100", "--min-lr-ratio=0.1", "--beta2=0.99", "--dropout=0"),
)
NETWORKS = {
    "gpt2": Network("GPT-2", "GPT/GPT2"),
    "llama": Network("Llama", "GPT/Llama"),
    "qwen3": Network("Qwen3", "GPT/Qwen3"),
    "qwen3_experts": Network("Qwen3, 2 of 4 experts", "GPT/Qwen3", ("--model=char_experts",)),
    "deepseekv3": Network("DeepSeek-V3", "GPT/DeepSeekV3"),
    "mamba": Network("Mamba", "StateSpace/Mamba"),
    "lstm": Network("LSTM", "RNN/LSTM", (*_AS_GPT, "--no-carry-state")),
    "lstm_carried": Network("LSTM, state carried from chunk to chunk", "RNN/LSTM", _AS_GPT),
}
TRAINING = {"lr": str, "seed": int, "loss": float, "tokens_per_second": float, "seconds": float, "commit": str}
RECORD = {"network": str, "recipe": str, "parameters": int, "flops": int, "device": str, "trainings": [TRAINING]}

Training = dict[str, Any]  # as TRAINING


# ---- training ------------------------------------------------------------------------------------------------------


def trials(network: Network, rates: Sequence[str], seeds: Sequence[int], out: Path) -> list[sweep.Trial]:
    """Return the trainings of a network at these rates, with these seeds."""
    config_class = catalogue.module(catalogue.find(network.recipe), "train").Config
    settings = sweep.grid(config_class, [f"--lr={','.join((LOWER, *RATES, HIGHER))}", *network.flags])
    return [sweep.trial(out, f"lr={rate}", seed, settings[f"lr={rate}"]) for rate in rates for seed in seeds]


def train(network: Network, rates: Sequence[str], seeds: Sequence[int], out: Path, jobs: int) -> list[Training]:
    """Train what is not yet finished, and return the figures of all; one whose loss was not finite has none."""
    config_class = catalogue.module(network.recipe, "train").Config
    asked = trials(network, rates, seeds, out)
    left = [trial for trial in asked if not sweep.is_finished(trial.out, parse_config(config_class, trial.flags))]
    failed = sweep.run(network.recipe, left, jobs)
    return [_figures(trial) for trial in asked if trial not in failed]


def _figures(trial: sweep.Trial) -> Training:
    run = Run.open(trial.out)
    best = best_record(run.history)
    if best is None:
        raise UserError(f"{trial.out} was never evaluated")
    return {
        **{"lr": trial.setting.removeprefix("lr="), "seed": trial.seed, "loss": best["val"]["loss"]},
        **{"tokens_per_second": run.speed["items_per_second"], "seconds": run.speed["training_seconds"]},
        "commit": run.described["commit"],
    }


def tune(network: Network, out: Path, jobs: int = 1) -> list[Training]:
    """Return the trainings at RATES, at one more if the best of them is at an end, and with SEEDS at the best."""
    first, *others = SEEDS
    found = train(network, RATES, [first], out, jobs)
    if (best := best_rate(found)) in (RATES[0], RATES[-1]):
        found += train(network, [LOWER if best == RATES[0] else HIGHER], [first], out, jobs)
    return found + train(network, [best_rate(found)], others, out, jobs)


def best_rate(trainings: Sequence[Training]) -> str:
    """Return the rate with the lowest validation loss of the first seed. Raises `UserError` if none was finished."""
    losses = {each["lr"]: each["loss"] for each in trainings if each["seed"] == SEEDS[0] and math.isfinite(each["loss"])}
    if not losses:
        raise UserError("no training was finished")
    return min(losses, key=losses.__getitem__)


# ---- the table -----------------------------------------------------------------------------------------------------


def table(records: Sequence[dict[str, Any]]) -> str:
    """Return a row for each network as Markdown, the lowest loss first."""
    rows = []
    for record in records:
        trainings = record["trainings"]
        best = best_rate(trainings)
        losses = [each["loss"] for each in trainings if each["lr"] == best]
        others = sorted((float(each["lr"]), each["loss"]) for each in trainings if each["seed"] == SEEDS[0])
        speed = median(each["tokens_per_second"] for each in trainings)
        rows.append((
            sum(losses) / len(losses),
            [
                *(record["network"], f"{record['parameters']:,}", f"{record['flops'] / CONTEXT / 1e6:.2f}", best),
                *(f"{spread(losses, '.3f')}", str(len(losses)), f"{speed:,.0f}"),
                ", ".join(f"{lr:g}: {loss:.3f}" for lr, loss in others),
            ],
        ))  # fmt: skip
    headings = [
        "network",
        "parameters",
        "MFLOPs a character",
        "rate",
        "validation loss",
        "seeds",
        "characters/s",
        "seed 0 at each rate",
    ]
    return markdown_table(headings, [row for _, row in sorted(rows)])


def tables() -> list[tuple[Path, str, str]]:
    """Return the README's table of what is recorded, see `dl.cli.results.OTHERS`."""
    records = read(FOLDER, RECORD)
    return [(catalogue.MODULES / "GPT" / "README.md", "results", table(records) if records else "Nothing is recorded yet.")]


# ---- the command ---------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Language models side by side on characters of Shakespeare.")
    parser.add_argument("network", choices=list(NETWORKS), help="what is trained")
    parser.add_argument("--runs", type=user_path, default=Path("runs/characters"), help="folder (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time (default: %(default)s)")
    parser.set_defaults(file=None)  # it depends on the network
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    network, out = NETWORKS[options.network], options.runs / options.network
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "sweep.lock", f"{out} is in use: another one trains there"):
        trainings = tune(network, out, options.jobs)
    best = next(trial.out for trial in trials(network, [best_rate(trainings)], SEEDS[:1], out))
    sizes = {"parameters": count_parameters(Run.open(best).model()), "flops": flops_of(best / "summary.txt")}
    about = common.about_this_machine(options.command) | {"network": network.title, "recipe": network.recipe}
    record = {**about, "flags": list(network.flags), **sizes, "trainings": trainings}
    path = write(record, options.out or common.where(options, f"characters/{options.network}.json"))
    print(f"{table([record])}\nwritten to {path}")


if __name__ == "__main__":
    sys.exit(main())
