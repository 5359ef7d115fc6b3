"""Train LeNet-5 on Fashion-MNIST or MNIST.

python -m dl.modules.CNN.LeNet.train
python -m dl.modules.CNN.LeNet.train --model lenet5 --data mnist --out runs/CNN/LeNet-mnist
torchrun --nproc_per_node=2 -m dl.modules.CNN.LeNet.train --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.CNN.LeNet.model import PRESETS, build
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import ImageConfig, Splits, image_set, image_splits
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(ImageConfig):
    """Train LeNet-5."""

    out: str = "runs/CNN/LeNet"
    data: Literal["fashion_mnist", "fashion_mnist-sample", "mnist"] = flag("fashion_mnist", "set of images, of one channel")
    model: str = flag("modern", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 15
    lr: float = 0.1
    weight_decay: float = 1e-3
    hflip: bool = True
    channels_last: bool = True  # a fifth faster on a CPU


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for."""
    return build(config.model)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model = build_model(config)
    task = Classification(config.label_smoothing, image_set(config).classes)
    optimizer = sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay)
    schedule = warmup_cosine(warmup=0.05)
    trainer = Trainer(model, task, optimizer, schedule, config)
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
