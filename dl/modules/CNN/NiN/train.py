"""Train a NiN on Fashion-MNIST, or on another set of images.

python -m dl.modules.CNN.NiN.train
python -m dl.modules.CNN.NiN.train --model cifar10 --out runs/CNN/NiN-cifar10
torchrun --nproc_per_node=2 -m dl.modules.CNN.NiN.train --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.CNN.finetuning import FineTuningConfig
from dl.modules.CNN.NiN.model import PRESETS, build
from dl.modules.CNN.recipe import build_classifier, train_classifier
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """Train a NiN."""

    out: str = "runs/CNN/NiN"
    model: str = flag(
        "small", "preset of the network, see model.py; up to 64 pixels they get a stem for small images", choices=PRESETS
    )
    epochs: int = 10
    lr: float = 2e-3  # of AdamW: without norms, momentum at the rates of ResNet kills the ReLUs that end the network
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for."""
    return build_classifier(build, config)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, config.weight_decay)
    return train_classifier(config, build_model, data, optimizer, warmup_cosine(warmup=0.1))


if __name__ == "__main__":
    launch(main, Config)
