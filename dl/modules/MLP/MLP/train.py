"""Train a multilayer perceptron on Fashion-MNIST or other images (`--data`).

python -m dl.modules.MLP.MLP.train
python -m dl.modules.MLP.MLP.train --model d2l --out runs/MLP/MLP-d2l
"""

from dataclasses import dataclass

from torch import nn

from dl.modules.MLP.MLP.model import PRESETS, build
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import ImageConfig, Splits, image_set, image_splits
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(ImageConfig):
    """Train a multilayer perceptron."""

    out: str = "runs/MLP/MLP"
    model: str = flag("large", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 12
    lr: float = 0.03
    weight_decay: float = 1e-3
    hflip: bool = True


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for."""
    about = image_set(config)
    return build(config.model, in_channels=about.channels, image_size=about.size, num_classes=len(about.classes))


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build_model(config),
        task=Classification(config.label_smoothing, image_set(config).classes),
        optimizer=sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
