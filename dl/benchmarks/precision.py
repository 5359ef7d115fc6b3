"""Training speed of every recipe in fp32, in bf16 and as `--precision auto` takes it, and in the other layout of images.

    python -m dl.benchmarks.precision                          all recipes, 5 rounds of 20 steps
    python -m dl.benchmarks.precision CNN/ResNet GPT/GPT2      these
    ONEDNN_MAX_CPU_ISA=AVX2 python -m dl.benchmarks.precision  as on a processor that has nothing newer

Each recipe makes its network, task, optimizer and batches itself, with its own defaults; only the data is a sample, or
random words of the same shape where none is bundled. Fine-tuning BERT, which needs pretrained weights, is left out. Timed
is `Trainer.step` on batches in memory.

- fp32, bf16   with this `--precision`. `auto` is the same program as the one that it takes, and is not timed again
- other        fp32 with the other choice of `--channels-last`, for networks that have convolutions of images

How rounds go is said in `dl.benchmarks.common`. Where bf16 is emulated, it gets one round of 3 steps.
"""

import argparse
import dataclasses
import gc
import sys
import tempfile
import time
from itertools import cycle, islice
from statistics import median
from typing import Any, Callable, Sequence
from unittest.mock import patch

import torch

from dl.benchmarks import common
from dl.benchmarks.bert import pairs
from dl.cli import catalogue
from dl.cli.command import command
from dl.cli.records import write
from dl.mytorch import Trainer
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.data.text.vocabulary import PADDING, UNKNOWN, Vocabulary
from dl.mytorch.distributed import to_device
from dl.mytorch.files import read_json
from dl.mytorch.precision import native_bf16

CPU = torch.device("cpu")
BATCHES = 4  # kept in memory, for each step another
SAMPLES = {"fashion_mnist": "fashion_mnist-sample", "shakespeare": "shakespeare-sample", "wikitext2": "shakespeare-sample"}


def recipes() -> list[str]:
    """Return all folders with a train.py, as "CNN/LeNet"; some have no model.py."""
    return sorted(path.parent.relative_to(catalogue.MODULES).as_posix() for path in catalogue.MODULES.glob("*/*/train.py"))


def random_words(name: str, config: Any) -> Splits | None:
    """Data for the recipes whose texts are not bundled: as many words as theirs, in the usual lengths."""
    rows, known = BATCHES * config.batch_size * config.accumulate, 15_000
    words = Vocabulary([PADDING, UNKNOWN, *(f"word{i}" for i in range(known - 2))])
    if name == "Transformers/BERT":
        batch = pairs(rows, config.length)
        batch |= {key: batch[key] % known for key in ("tokens", "targets")}
    elif name == "RNN/TextCNN":
        batch = {"tokens": torch.randint(2, known, (rows, config.length)), "labels": torch.randint(2, (rows,))}
    else:
        return None
    loader = Loader(batch, config.batch_size)
    return Splits(loader, loader, vocabularies={"tokens": words})


def made(name: str, folder: str, **flags: Any) -> tuple[Trainer, Splits]:
    """Return the trainer and the data of the recipe `name`, as its `main` has them before the first step."""
    recipe = catalogue.module(name, "train")
    default = next(field.default for field in dataclasses.fields(recipe.Config) if field.name == "data")
    config = recipe.Config(out=folder, device="cpu", **flags)
    data = random_words(name, config)
    if data is None:
        config = dataclasses.replace(config, data=SAMPLES.get(default, default))
    with patch.object(Trainer, "fit", lambda trainer, data: (trainer, data)):
        return recipe.main(config, data)


def one_step(trainer: Trainer, data: Splits) -> tuple[Callable[[], None], int]:
    """Return a step of training on the next of some batches, and its number of examples."""
    config = trainer.config
    first = islice(data.train.batches(), BATCHES * config.accumulate)
    batches = [to_device(batch, CPU, config.channels_last) for batch in first]
    full = [batch for batch in batches if examples(batch) == examples(batches[0])]
    upcoming = cycle(full)
    trainer.model.train()
    for group in trainer.step.param_groups():
        group["lr"] = 0.0  # at the highest rate, without the schedule, some would diverge
    return lambda: trainer.step(list(islice(upcoming, config.accumulate))), examples(full[0]) * config.accumulate


def examples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def has_image_convolutions(trainer: Trainer) -> bool:
    return any(parameter.ndim == 4 for parameter in trainer.model.parameters())


def measure(
    name: str, rounds: int, steps: int, native: bool, folder: str, clock: common.Clock = time.perf_counter
) -> dict[str, Any]:
    """Return examples per second of a recipe in each way, a figure a round."""
    trainer, data = made(name, folder, precision="fp32")
    layout = trainer.config.channels_last
    step, items = one_step(trainer, data)
    ways, few = {"fp32": step}, min(3, steps)
    bf16 = one_step(*made(name, folder, precision="bf16"))[0]
    slow: common.Contenders = {}
    try:
        bf16()
        (ways if native else slow)["bf16"] = bf16
    except RuntimeError as error:  # oneDNN has no LSTM in bf16 for a processor with AVX2 alone
        if native:
            raise
        print(f"{name} does not train in bf16 here: {error}", file=sys.stderr, flush=True)
    if has_image_convolutions(trainer):
        ways["other"] = one_step(*made(name, folder, precision="fp32", channels_last=not layout))[0]
    taken = common.seconds({way: repeated(one, steps) for way, one in ways.items()}, rounds, clock, warm_ups=1)
    speeds = common.rates(taken, steps * items)
    taken = common.seconds({way: repeated(one, few) for way, one in slow.items()}, 1, clock, warm_ups=0)
    speeds |= common.rates(taken, few * items)
    auto = "bf16" if native else "fp32"
    default = catalogue.module(name, "train").Config().precision
    about = {"default_precision": default, "auto_takes": auto, "channels_last": layout, "examples_per_step": items}
    return about | {"examples_per_second": speeds | {"auto": speeds[auto]}}


def repeated(step: Callable[[], None], times: int) -> Callable[[], None]:
    """Return what makes so many steps."""

    def steps() -> None:
        for _ in range(times):
            step()

    return steps


def table(results: dict[str, dict[str, Any]]) -> str:
    """Return the figures as readable text. The last columns are ratios: auto to the better precision, other layout to fp32."""
    headings = [f"{way:>8}" for way in ("default", "auto", "fp32", "bf16")]
    lines = [f"{'':26} {' '.join(headings)} {'auto/best':>9}  {'layout':13} {'other/fp32':>10}"]
    for name, found in results.items():
        speeds = found["examples_per_second"]
        auto, fp32, bf16 = (median(speeds.get(way, [0.0])) for way in ("auto", "fp32", "bf16"))
        layout = ""
        if "other" in speeds:
            ratio = common.ratio(speeds["other"], speeds["fp32"])
            layout = f"  {'channels_last' if found['channels_last'] else 'usual':13} {ratio:10.2f}"
        default = found["default_precision"]
        lines.append(f"{name:26} {default:>8} {auto:8,.1f} {fp32:8,.1f} {bf16:8,.1f} {auto / max(fp32, bf16):9.2f}{layout}")
    return "\n".join(lines)


def auto_takes() -> dict[str, str]:
    """Return what `auto` takes on this processor, and why."""
    native, clause = native_bf16(CPU)
    return {"auto": "bf16" if native else "fp32", "why": clause}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = "Training speed of every recipe in fp32, in bf16 and with --precision auto."
    parser = common.parser(__spec__.name, about, cpu_time=True)
    parser.add_argument("recipes", nargs="*", help="such as CNN/ResNet; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each way")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a measurement")
    parser.add_argument("--keep", action="store_true", help="keep what --out has of other recipes, measured before")
    options = common.parse(parser, argv)
    if unknown := set(options.recipes) - set(recipes()):
        parser.error(f"{', '.join(unknown)}: no such recipe; there are {', '.join(recipes())}")
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    names = options.recipes or recipes()
    about = common.about_this_machine(options.command) | auto_takes() | {"rounds": options.rounds, "steps": options.steps}
    results: dict[str, dict[str, Any]] = {}
    if options.keep and options.out.exists():
        results = read_json(options.out, {"results": {str: object}})["results"]
    for place, name in enumerate(names, start=1):
        print(f"{name}, {place} of {len(names)}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(name, options.rounds, options.steps, about["auto"] == "bf16", folder, options.clock)
        gc.collect()
        write(about | {"results": dict(sorted(results.items()))}, options.out)  # all take an hour
    print(f"{about['processor']}, {about['device']}; auto takes {about['auto']}: {about['why']}")
    print(f"{table(results)}\nwritten to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
