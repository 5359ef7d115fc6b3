"""Train a SqueezeNet.

python -m dl.modules.CNN.SqueezeNet.train
python -m dl.modules.CNN.SqueezeNet.train --model squeezenet1_1 --out runs/CNN/SqueezeNet-1_1
torchrun --nproc_per_node=2 -m dl.modules.CNN.SqueezeNet.train --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.CNN.finetuning import FineTuningConfig
from dl.modules.CNN.recipe import build_classifier, train_classifier
from dl.modules.CNN.SqueezeNet.model import PRESETS, build
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """Train a SqueezeNet."""

    out: str = "runs/CNN/SqueezeNet"
    model: str = flag(
        "small", "preset of the network, see model.py; up to 64 pixels they get a stem for small images", choices=PRESETS
    )
    dropout: float = flag(0.5, "probability, before the last convolution")
    last_act: bool = flag(False, "the paper's ReLU after the last convolution; with few classes, some are soon lost")
    epochs: int = 10
    lr: float = 2e-3
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # with channels_last, faster on a CPU with avx512_bf16
    channels_last: bool = True


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for."""
    return build_classifier(build, config, dropout=config.dropout, last_act=config.last_act)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, config.weight_decay)  # with SGD the loss hardly falls in the first epochs
    return train_classifier(config, build_model, data, optimizer, warmup_cosine(warmup=0.1))


if __name__ == "__main__":
    launch(main, Config)
