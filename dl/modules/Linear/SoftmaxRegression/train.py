"""Train softmax regression on Fashion-MNIST or other images (`--data`).

python -m dl.modules.Linear.SoftmaxRegression.train
python -m dl.modules.Linear.SoftmaxRegression.train --data mnist --out runs/Linear/SoftmaxRegression-mnist
"""

from dataclasses import dataclass

from torch import nn

from dl.modules.Linear.SoftmaxRegression.model import build
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.data import ImageConfig, Splits, image_set, image_splits
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(ImageConfig):
    """Train softmax regression."""

    out: str = "runs/Linear/SoftmaxRegression"
    epochs: int = 10
    batch_size: int = 256
    lr: float = 0.05


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for."""
    about = image_set(config)
    return build(in_channels=about.channels, image_size=about.size, num_classes=len(about.classes))


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build_model(config),
        task=Classification(config.label_smoothing, image_set(config).classes),
        optimizer=sgd(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
