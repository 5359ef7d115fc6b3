"""Train a normalizing flow on images; what it draws is a figure of the run.

python -m dl.modules.Generative.RealNVP.train
python -m dl.modules.Generative.RealNVP.train --data cifar10 --model cifar10 --out runs/Generative/RealNVP-cifar10
python -m dl.modules.Generative.RealNVP.train --data fashion_mnist-sample --epochs 5 --out runs/Generative/RealNVP-sample
"""

from dataclasses import dataclass

import torch

from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Generative.RealNVP.model import PRESETS, RealNVP, build
from dl.modules.Generative.RealNVP.task import NegativeLogLikelihood
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Batch, Splits, image_set, image_splits
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ImagesConfig):
    """Train a normalizing flow."""

    out: str = "runs/Generative/RealNVP"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 1  # ten minutes of one core
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 5e-5  # section 4.1
    grad_clip: float = 500.0  # of a loss in nats per image, which is in the thousands
    ema: float = 0.995


def build_model(config: Config) -> RealNVP:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    try:
        return build(config.model, in_channels=about.channels, image_size=about.size)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None


def as_bytes(batch: Batch, generator: torch.Generator) -> Batch:
    """Leave images as bytes: the task has to know the interval that each stands for."""
    return batch


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build_model(config),
        task=NegativeLogLikelihood(),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config, to_input=as_bytes))


if __name__ == "__main__":
    launch(main, Config)
