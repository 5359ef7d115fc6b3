"""Train a multilayer perceptron on Fashion-MNIST or MNIST.

    python -m dl.modules.MLP.MLP.train
    python -m dl.modules.MLP.MLP.train --model d2l --out runs/MLP/MLP-d2l
"""

from dataclasses import dataclass
from typing import Literal

from dl.modules.MLP.MLP.model import build
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, class_names, image_splits
from dl.mytorch.data.augment import random_flip
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train a multilayer perceptron."""

    out: str = "runs/MLP/MLP"
    data: Literal["fashion_mnist", "fashion_mnist-sample", "mnist"] = "fashion_mnist"
    model: Literal["large", "d2l", "tiny"] = flag("large", "preset of the network, see model.py")
    epochs: int = 12
    lr: float = 0.03
    weight_decay: float = 1e-3


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    augment = None if config.data == "mnist" else random_flip()  # a digit in a mirror is no digit
    trainer = Trainer(
        model=build(config.model),
        task=Classification(class_names=class_names(config.data)),
        optimizer=sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config, augment))


if __name__ == "__main__":
    launch(main, Config)
