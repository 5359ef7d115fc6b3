"""Train a diffusion model on images; its samples are a figure of the run.

    python -m dl.modules.Diffusion.DDPM.train
    python -m dl.modules.Diffusion.DDPM.train --data fashion_mnist-sample --epochs 3 --out runs/Diffusion/DDPM-sample
    python -m dl.modules.Diffusion.DDPM.train --data cifar10 --model cifar10 --hflip --steps 800000 --lr 2e-4 --ema 0.9999 \\
        --batch-size 128 --schedule linear --prediction epsilon --no-classes --precision fp32 --out runs/Diffusion/DDPM-cifar10
"""

from dataclasses import dataclass
from typing import Any, Callable, Literal

from torch import nn

from dl.modules.Diffusion.DDPM.data import DiffusionConfig, fitting
from dl.modules.Diffusion.DDPM.model import UNet, build
from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.task import Denoising
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.optim import MakeOptimizer, Schedule, adamw, warmup_cosine


@dataclass(frozen=True)
class Config(DiffusionConfig):
    """Train DDPM."""

    out: str = "runs/Diffusion/DDPM"
    times: int = flag(1000, "time steps T of the process")
    schedule: Literal["linear", "cosine"] = flag("cosine", "how the noise grows")
    prediction: Literal["epsilon", "x0", "v"] = flag("v", "what the network predicts")
    learned_variance: bool = flag(False, "let it tell the variance of a step back, too")

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 2 if self.learned_variance else 1
        self._check("times", self.times >= least, f"at least {least}")


def build_model(config: Config) -> UNet:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    model = build(
        config.model,
        in_channels=about.channels,
        out_channels=about.channels * (2 if config.learned_variance else 1),
        num_classes=len(about.classes) if config.classes else 0,
    )
    return fitting(model, config)


def process(config: Config) -> DiffusionSchedule:
    """Return the forward process that the config asks for."""
    return DiffusionSchedule(config.schedule, config.prediction, config.times, config.learned_variance)


def train(
    config: Config,
    build_model: Callable[[Any], nn.Module],
    data: Splits | None,
    optimizer: MakeOptimizer,
    schedule: Schedule,
) -> History:
    """Train `build_model(config)` to denoise `data`; default: the images that `config.data` names."""
    seed_everything(config.seed)
    about = image_set(config)
    trainer = Trainer(
        model=build_model(config),
        task=Denoising(process(config), (about.channels, about.size, about.size), config.drop_label),
        optimizer=optimizer,
        schedule=schedule,
        config=config,
    )
    return trainer.fit(data or image_splits(config, to_input=signed))


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, weight_decay=config.weight_decay)
    return train(config, build_model, data, optimizer, warmup_cosine(warmup=0.05))


if __name__ == "__main__":
    launch(main, Config)
