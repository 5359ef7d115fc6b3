"""Train a ResNet on some classes of a set only: the others are what it does not know.

python -m dl.modules.DataMining.OpenSet.train --held-out 2,6
python -m dl.modules.DataMining.OpenSet.train                   # on all classes
"""

from dataclasses import dataclass

import torch

from dl.modules.CNN.ResNet import train as resnet
from dl.modules.CNN.ResNet.model import ResNet
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Batch, Loader, Splits, image_set, image_splits
from dl.mytorch.data.images.sets import IMAGE_SETS, NAMES
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(resnet.Config):
    """Train a ResNet on a part of the classes of Fashion-MNIST, or of another set that fits into memory."""

    out: str = "runs/DataMining/OpenSet"
    data: str = flag("fashion_mnist", f"set of images: {NAMES}")
    held_out: str = flag("", "numbers of the classes that training never sees, separated by commas: 2,6")
    epochs: int = 3
    label_smoothing: float = 0.0  # plain cross-entropy, as the papers of the scores train

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data not in IMAGE_SETS:
            raise UserError(f"--data {self.data}: classes are held out of sets that fit into memory only: {NAMES}")
        numbers = self.held_out.split(",") if self.held_out else []
        classes = len(image_set(self).classes)
        valid = all(n.isdecimal() and int(n) < classes for n in numbers) and len(set(numbers)) == len(numbers) <= classes - 2
        self._check("held_out", valid, f"numbers below {classes}, separated by commas, that leave at least two classes")


def known_classes(config: Config) -> list[int]:
    """Return the labels that the network learns; its output i is for the i-th of them."""
    unknown = {int(number) for number in config.held_out.split(",") if number}
    return [label for label in range(len(image_set(config).classes)) if label not in unknown]


def build_model(config: Config) -> ResNet:
    """Return the network that the config asks for, with an output for each known class."""
    return resnet.build_model(config, len(known_classes(config)))


def only(batch: Batch, classes: list[int]) -> Batch:
    """Return the images of these classes, with their places in `classes` as labels."""
    chosen = torch.isin(batch["labels"], torch.tensor(classes))
    numbers = torch.full((max(classes) + 1,), -1)
    numbers[classes] = torch.arange(len(classes))
    return {"images": batch["images"][chosen], "labels": numbers[batch["labels"][chosen]]}


def known_only(data: Splits, classes: list[int]) -> Splits:
    """Return the same splits, of a set in memory, without the images of other classes."""

    def part(loader: Loader) -> Loader:
        known, transform = only(loader.dataset, classes), loader.transform
        return Loader(known, loader.batch_size, shuffle=loader.shuffle, seed=loader.seed, transform=transform)

    return Splits(*map(part, data))


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about, classes = image_set(config), known_classes(config)
    tta_flip = config.tta_flip and about.flip_invariant
    trainer = Trainer(
        model=build_model(config),
        task=Classification(config.label_smoothing, [about.classes[label] for label in classes], tta_flip=tta_flip),
        optimizer=sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay, nesterov=True),
        schedule=warmup_cosine(warmup=0.1),
        config=config,
    )
    return trainer.fit(known_only(data or image_splits(config), classes))


if __name__ == "__main__":
    launch(main, Config)
