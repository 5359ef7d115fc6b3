"""Train a ResNet for search: images of a class near each other, those of other classes far.

    python -m dl.modules.DataMining.ImageSearch.train
    python -m dl.modules.DataMining.ImageSearch.train --loss triplet --out runs/DataMining/MetricLearning-triplet
    python -m dl.modules.DataMining.ImageSearch.index fashion_mnist --weights runs/DataMining/MetricLearning

The network is that of CNN/ResNet with a linear layer to `--embedding` numbers in place of the classes. Search reads, as
ever, what goes into this layer (Khosla et al. 2020, section 3.1, throw the projection away too).
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.CNN.ResNet import train as resnet
from dl.modules.CNN.ResNet.model import PRESETS, ResNet
from dl.modules.DataMining.ImageSearch.task import MetricLearning
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import ImageConfig, Splits, image_splits
from dl.mytorch.optim import sgd, warmup_cosine


@dataclass(frozen=True)
class Config(ImageConfig):
    """Train a ResNet for search."""

    out: str = "runs/DataMining/MetricLearning"
    loss: Literal["contrastive", "triplet"] = flag("contrastive", "supervised contrastive, or triplets, see task.py")
    embedding: int = flag(128, "width of the embedding whose distances the loss compares")
    model: str = flag("small", "preset of CNN/ResNet", choices=PRESETS)
    epochs: int = 4
    batch_size: int = 256
    lr: float = 0.2
    weight_decay: float = 5e-4
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("embedding", self.embedding >= 2, "at least 2")
        for name in ("label_smoothing", "mixup", "cutmix"):
            self._check(name, getattr(self, name) == 0, "0: images are compared, no class is predicted")


def build_model(config: Config) -> ResNet:
    """Return the network that the config asks for: its outputs are embeddings."""
    model = resnet.build_model(config)
    model.head = nn.Linear(model.head.in_features, config.embedding)
    return model


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build_model(config),
        task=MetricLearning(config.loss),
        optimizer=sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay, nesterov=True),
        schedule=warmup_cosine(warmup=0.2),
        config=config,
    )
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
