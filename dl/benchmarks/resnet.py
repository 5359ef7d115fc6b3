"""Training speed of our ResNet-18 on 32x32 images against torchvision's, and what each faster setting brings.

    python -m dl.benchmarks.resnet                 5 rounds, batches of 128
    python -m dl.benchmarks.resnet --rounds 9 --batch-size 64

Both networks have the same stem for small images (3x3, stride 1, no pooling). All train with SGD, momentum 0.9 and
weight decay, on one batch of random pixels in memory.

- torchvision          torchvision's network in a loop written by hand, fp32
- by hand              our network in the same loop, fp32
- Trainer              our network by `Trainer.step`, with its checks and training errors, fp32
- + channels_last      the same with images and weights laid out with the channel innermost
- + bf16               instead of this, the forward pass in bfloat16
- + both, + compile    both; both and torch.compile

A round times one step of each, in an order that begins with the next contender every round; ratios to torchvision's
are taken within a round, and all figures are medians over rounds. Everything is in one process, warmed by two steps.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dl.benchmarks.trainer import about_this_machine
from dl.modules.CNN.ResNet.model import build
from dl.modules.CNN.ResNet.train import Config
from dl.mytorch import Trainer
from dl.mytorch.config import user_path
from dl.mytorch.data import Batch
from dl.mytorch.distributed import to_device
from dl.mytorch.files import write_json
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification
from dl.mytorch.torchvision_compat import import_torchvision

RESULTS = Path(__file__).parent / "results" / "resnet.json"
PLAIN = {"precision": "fp32", "channels_last": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "Trainer": PLAIN,
    "+ channels_last": {**PLAIN, "channels_last": True},
    "+ bf16": {**PLAIN, "precision": "bf16"},
    "+ both": {"precision": "bf16", "channels_last": True},
    "+ compile": {"precision": "bf16", "channels_last": True, "compile": True},
}
NAMES = ["torchvision", "by hand", *SETTINGS]
OPTIMIZER = sgd(0.01, momentum=0.9, weight_decay=5e-4)


def small_resnet18() -> nn.Module:
    """torchvision's, with the stem for small images."""
    model = import_torchvision().models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def by_hand(model: nn.Module, batch: Batch) -> Callable[[], None]:
    """One step of the shortest loop there is."""
    optimizer = OPTIMIZER(model.train())

    def step() -> None:
        F.cross_entropy(model(batch["images"]), batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def by_trainer(model: nn.Module, batch: Batch, folder: str, setting: dict[str, Any]) -> Callable[[], None]:
    """One step of the project's loop."""
    config = Config(out=folder, device="cpu", **setting)
    trainer = Trainer(model.train(), Classification(), OPTIMIZER, constant(), config)
    batch = to_device(batch, trainer.device, config.channels_last)
    return lambda: trainer.step([batch])


def contenders(names: Sequence[str], batch: Batch, folder: str) -> dict[str, Callable[[], None]]:
    """name -> one training step."""
    steps = {}
    for name in names:
        model = small_resnet18() if name == "torchvision" else build("resnet18", num_classes=10, stem="small")
        steps[name] = by_trainer(model, batch, folder, SETTINGS[name]) if name in SETTINGS else by_hand(model, batch)
    return steps


def measure(
    steps: dict[str, Callable[[], None]], rounds: int, items: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """name -> items (images, tokens) per second of the clock, one figure a round; a step takes `items` of them."""
    names = list(steps)
    speeds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-2, rounds):  # the two before 0 warm up: memory, threads, compiled code
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            started = clock()
            steps[name]()
            if turn >= 0:
                speeds[name].append(items / (clock() - started))
        print(f"round {turn + 1} of {rounds}" if turn >= 0 else "warming up", file=sys.stderr, flush=True)
    return speeds


def table(speeds: dict[str, list[float]], unit: str = "images/s") -> str:
    """The figures as people read them; ratios are to the first contender."""
    first = next(iter(speeds))
    lines = [f"{'':17} {unit:>8} {'(lowest - highest)':>19} {'of ' + first:>15}"]
    for name, own in speeds.items():
        spread = f"({min(own):,.0f} - {max(own):,.0f})"
        ratio = median(a / b for a, b in zip(own, speeds[first]))
        lines.append(f"{name:17} {median(own):8,.1f} {spread:>19} {ratio:15.2f}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description="Training speed of ResNet-18 on 32x32 images, beside torchvision's.")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step")
    parser.add_argument("--only", default=",".join(NAMES), help="contenders, by commas; torchvision is always there")
    parser.add_argument("--out", type=user_path, default=RESULTS, help="JSON file to write")
    options = parser.parse_args(argv)
    if unknown := set(options.only.split(",")) - set(NAMES):
        parser.error(f"--only {','.join(unknown)}: there are {', '.join(NAMES)}")
    torch.manual_seed(0)
    batch = {"images": torch.randn(options.batch_size, 3, 32, 32), "labels": torch.randint(10, (options.batch_size,))}
    chosen = [name for name in NAMES if name == "torchvision" or name in options.only.split(",")]
    about = about_this_machine(__spec__.name, argv)
    with tempfile.TemporaryDirectory() as folder:
        speeds = measure(contenders(chosen, batch, folder), options.rounds, options.batch_size)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(about | {"batch_size": options.batch_size, "rounds": options.rounds, "images_per_second": speeds}, options.out)
    print(f"{about['device']}, ResNet-18, 32x32, batch {options.batch_size}\n{table(speeds)}\nwritten to {options.out}")


if __name__ == "__main__":
    main(sys.argv[1:])
