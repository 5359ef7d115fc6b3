"""Train a ResNet on Fashion-MNIST, CIFAR-10 or other images (`--data`, see --help).

python -m dl.modules.CNN.ResNet.train
python -m dl.modules.CNN.ResNet.train --model resnet20 --data cifar10 --out runs/CNN/ResNet-20
torchrun --nproc_per_node=2 -m dl.modules.CNN.ResNet.train --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal

from dl.modules.CNN.finetuning import FineTuningConfig, rates, start
from dl.modules.CNN.ResNet.model import PRESETS, ResNet, build
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """Train a ResNet."""

    out: str = "runs/CNN/ResNet"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 8
    batch_size: int = 256
    lr: float = 0.4
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # with channels_last, twice as fast on a CPU with avx512_bf16
    channels_last: bool = True
    tta_flip: bool = flag(
        False, "evaluate each image together with its flipped one: twice the time, a lower error", alias="mirror"
    )


def build_model(config: Config, classes: int = 0) -> ResNet:
    """Return the network that the config asks for, with so many outputs; 0 = one for each class of its images.

    What was made for ImageNet gets a small stem for images up to 64 pixels.
    """
    about = image_set(config)
    stem = PRESETS[config.model].get("stem", "small" if about.small else "imagenet")
    return build(config.model, in_channels=about.channels, num_classes=classes or len(about.classes), stem=stem)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about = image_set(config)
    trainer = Trainer(
        model=start(build_model(config), config),
        task=Classification(config.label_smoothing, about.classes, tta_flip=config.tta_flip and about.flip_invariant),
        optimizer=rates(sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay, nesterov=True), config),
        schedule=warmup_cosine(warmup=0.2),
        config=config,
    )
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
