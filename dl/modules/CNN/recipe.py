"""What the recipes of image classifiers share; LeNet's and ResNet's show the same steps written out."""

from typing import Any, Callable

from torch import nn

from dl.modules.CNN.finetuning import FineTuningConfig, rates, start
from dl.mytorch import History, Trainer, seed_everything
from dl.mytorch.data import ImageConfig, Splits, image_set, image_splits
from dl.mytorch.optim import MakeOne, Schedule
from dl.mytorch.tasks import Classification


def build_classifier(build: Callable[..., nn.Module], config: ImageConfig, part: str = "stem", **overrides: Any) -> nn.Module:
    """Return the preset `config.model` for the images of `config.data`; up to 64 pixels, with a `part` for small images."""
    about = image_set(config)
    overrides[part] = "small" if about.small else "imagenet"
    return build(config.model, in_channels=about.channels, num_classes=len(about.classes), **overrides)


def train_classifier(
    config: FineTuningConfig,
    build_model: Callable[[Any], nn.Module],
    data: Splits | None,
    optimizer: MakeOne,
    schedule: Schedule,
    task: type[Classification] = Classification,
) -> History:
    """Train `build_model(config)` on `data`; default: the images that `config.data` names."""
    seed_everything(config.seed)
    trainer = Trainer(
        model=start(build_model(config), config),
        task=task(config.label_smoothing, image_set(config).classes),
        optimizer=rates(optimizer, config),
        schedule=schedule,
        config=config,
    )
    return trainer.fit(data or image_splits(config))
