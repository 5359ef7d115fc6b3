"""Train a GoogLeNet on Fashion-MNIST, or on another set of images.

python -m dl.modules.CNN.GoogLeNet.train
python -m dl.modules.CNN.GoogLeNet.train --no-aux --out runs/CNN/GoogLeNet-one-head
torchrun --nproc_per_node=2 -m dl.modules.CNN.GoogLeNet.train --parallel ddp
"""

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from dl.modules.CNN.finetuning import FineTuningConfig
from dl.modules.CNN.GoogLeNet.model import PRESETS, build
from dl.modules.CNN.GoogLeNet.task import AuxiliaryClassification
from dl.modules.CNN.recipe import train_classifier
from dl.mytorch import History, launch
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set
from dl.mytorch.introspect import without_values
from dl.mytorch.optim import sgd, warmup_cosine


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """Train a GoogLeNet."""

    out: str = "runs/CNN/GoogLeNet"
    model: str = flag(
        "small", "preset of the network, see model.py; up to 64 pixels they get a stem for small images", choices=PRESETS
    )
    aux: bool = flag(True, "with the auxiliary heads, each of which adds 0.3 of its loss")
    epochs: int = 10
    lr: float = 0.1
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for. Raises `UserError` for images too large or small for its auxiliary heads."""
    about = image_set(config)
    made = functools.partial(
        build,
        config.model,
        aux=config.aux,
        in_channels=about.channels,
        num_classes=len(about.classes),
        stem="small" if about.small else "imagenet",
    )
    try:
        with without_values():
            made()(torch.empty(2, about.channels, about.size, about.size))
    except RuntimeError:
        raise UserError(f"--model {config.model} does not fit images of {about.size} pixels; --no-aux may help") from None
    return made()


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay, nesterov=True)
    return train_classifier(config, build_model, data, optimizer, warmup_cosine(warmup=0.1), AuxiliaryClassification)


if __name__ == "__main__":
    launch(main, Config)
