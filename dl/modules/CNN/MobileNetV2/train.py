"""Train a MobileNetV2 on Fashion-MNIST or another set of images.

python -m dl.modules.CNN.MobileNetV2.train
python -m dl.modules.CNN.MobileNetV2.train --model mobilenet_v2_0.5 --out runs/CNN/MobileNetV2-0.5
torchrun --nproc_per_node=2 -m dl.modules.CNN.MobileNetV2.train --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.CNN.finetuning import FineTuningConfig
from dl.modules.CNN.MobileNetV2.model import PRESETS, build
from dl.modules.CNN.recipe import build_classifier, train_classifier
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import sgd, warmup_cosine


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """Train a MobileNetV2."""

    out: str = "runs/CNN/MobileNetV2"
    model: str = flag(
        "small", "preset of the network, see model.py; up to 64 pixels they get a stem for small images", choices=PRESETS
    )
    epochs: int = 10
    lr: float = 0.1
    weight_decay: float = 1e-4
    label_smoothing: float = 0.1
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "fp32"  # faster than bf16 here: most of the time goes to norms and activations
    channels_last: bool = True


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for."""
    return build_classifier(build, config)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay, nesterov=True)
    return train_classifier(config, build_model, data, optimizer, warmup_cosine(warmup=0.1))


if __name__ == "__main__":
    launch(main, Config)
