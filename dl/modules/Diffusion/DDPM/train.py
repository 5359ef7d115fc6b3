"""Train a diffusion model on images; its samples are a picture of the run.

    python -m dl.modules.Diffusion.DDPM.train
    python -m dl.modules.Diffusion.DDPM.train --data fashion_mnist-sample --epochs 3 --out runs/Diffusion/DDPM-sample
    python -m dl.modules.Diffusion.DDPM.train --data cifar10 --model cifar10 --flip --steps 800000 --lr 2e-4 --ema 0.9999
"""

from dataclasses import dataclass
from typing import Literal

import torch

from dl.modules.Diffusion.DDPM.model import UNet, build
from dl.modules.Diffusion.DDPM.process import Process
from dl.modules.Diffusion.DDPM.task import Denoising
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Batch, ImageConfig, Splits, image_set, image_splits
from dl.mytorch.data.augment import Augment, compose
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ImageConfig):
    """Train DDPM."""

    out: str = "runs/Diffusion/DDPM"
    model: Literal["small", "cifar10", "tiny"] = flag("small", "preset of the network, see model.py")
    times: int = flag(1000, "time steps T of the process")
    schedule: Literal["linear", "cosine"] = flag("cosine", "how the noise grows")
    prediction: Literal["epsilon", "x0", "v"] = flag("v", "what the network predicts")
    classes: bool = flag(True, "condition on the label, so that samples of a class can be asked for")
    drop_label: float = flag(0.1, "probability that training hides the label, for classifier-free guidance")
    epochs: int = 5
    batch_size: int = 64
    lr: float = 2e-3
    clip: float = 1.0
    ema: float = 0.998
    precision: Literal["fp32", "bf16"] = "bf16"  # twice as fast on a CPU with avx512_bf16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("times", self.times >= 1, "at least 1")
        self._check("drop_label", 0 <= self.drop_label <= 1, "from 0 to 1")
        for name in ("label_smoothing", "mixup", "cutmix", "erase", "auto_augment"):
            self._check(name, not getattr(self, name), "off: samples would look like what it makes of images")


def network(config: Config) -> UNet:
    """The network that the config asks for."""
    about = image_set(config)
    return build(config.model, in_channels=about.channels, num_classes=len(about.classes) if config.classes else 0)


def process(config: Config) -> Process:
    """The forward process that the config asks for."""
    return Process(config.schedule, config.prediction, config.times)


def signed(standard: Augment) -> Augment:
    """Images standardised by `standard` to [-1, 1], where bytes 0 and 255 come to the ends."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        channels = batch["images"].shape[1]
        ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, channels, 1, 1)
        low, high = standard({"images": ends}, generator)["images"].to(batch["images"].device)
        return batch | {"images": (batch["images"] - low) / (high - low) * 2 - 1}

    return apply


def signed_splits(config: Config) -> Splits:
    """The images that `config.data` names, in [-1, 1]."""
    splits = image_splits(config)
    for loader in splits:
        loader.augment = compose(loader.augment, signed(image_set(config).standard))
    return splits


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about = image_set(config)
    trainer = Trainer(
        model=network(config),
        task=Denoising(process(config), (about.channels, about.size, about.size), config.drop_label),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or signed_splits(config))


if __name__ == "__main__":
    launch(main, Config)
