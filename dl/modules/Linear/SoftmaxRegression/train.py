"""Train softmax regression on Fashion-MNIST or MNIST.

    python -m dl.modules.Linear.SoftmaxRegression.train
    python -m dl.modules.Linear.SoftmaxRegression.train --data mnist --out runs/Linear/SoftmaxRegression-mnist
"""

from dataclasses import dataclass
from typing import Literal

from dl.modules.Linear.SoftmaxRegression.model import build
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.data import Splits, class_names, image_splits
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train softmax regression."""

    out: str = "runs/Linear/SoftmaxRegression"
    data: Literal["fashion_mnist", "fashion_mnist-sample", "mnist"] = "fashion_mnist"
    epochs: int = 10
    batch_size: int = 256
    lr: float = 0.05


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build(),
        task=Classification(class_names=class_names(config.data)),
        optimizer=sgd(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
