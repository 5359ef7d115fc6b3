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
from typing import Any, Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.CNN.ResNet.model import build
from dl.modules.CNN.ResNet.train import Config
from dl.mytorch import Trainer
from dl.mytorch.data import Batch
from dl.mytorch.distributed import to_device
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification
from dl.mytorch.torchvision_compat import import_torchvision

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


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Training speed of ResNet-18 on 32x32 images, beside torchvision's.")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each contender")
    parser.add_argument("--batch-size", type=int, default=128, help="images per step")
    some = common.some_of(NAMES, always="torchvision")
    parser.add_argument(
        "--only", type=some, default=NAMES, help="names of contenders, separated by commas; torchvision is always measured"
    )
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    batch = {"images": torch.randn(options.batch_size, 3, 32, 32), "labels": torch.randint(10, (options.batch_size,))}
    about = common.about_this_machine(options.command)
    with tempfile.TemporaryDirectory() as folder:
        taken = common.seconds(contenders(options.only, batch, folder), options.rounds)
    speeds = common.rates(taken, options.batch_size)
    write(about | {"batch_size": options.batch_size, "rounds": options.rounds, "images_per_second": speeds}, options.out)
    print(f"{about['device']}, ResNet-18, 32x32, batch {options.batch_size}")
    print(f"{common.table(speeds, 'images/s')}\nwritten to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
