"""Train a generative adversarial network on images; what its generator draws is a figure of the run.

python -m dl.modules.Generative.DCGAN.train
python -m dl.modules.Generative.DCGAN.train --data folder:images --image-size 64 --model lsun --out runs/Generative/lsun
python -m dl.modules.Generative.DCGAN.train --data fashion_mnist-sample --epochs 5 --out runs/Generative/DCGAN-sample
"""

from dataclasses import dataclass
from typing import Literal

from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Generative.DCGAN.model import DCGAN, PRESETS, build
from dl.modules.Generative.DCGAN.step import AdversarialStep
from dl.modules.Generative.DCGAN.task import Adversarial
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.optim import MakeOne, MakeOptimizer, adamw, constant, shown


@dataclass(frozen=True)
class Config(ImagesConfig):
    """Train a DCGAN."""

    out: str = "runs/Generative/DCGAN"
    model: str = flag("small", "preset of both networks, see model.py", choices=PRESETS)
    epochs: int = 20
    batch_size: int = 128  # this, lr and beta1: the paper, section 4
    lr: float = 2e-4
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # twice as fast on a CPU with avx512_bf16
    channels_last: bool = True
    beta1: float = flag(0.5, "Adam's decay of the mean of gradients; 0.9 let training oscillate, says the paper")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta1", 0 <= self.beta1 < 1, "at least 0 and below 1")


def build_model(config: Config) -> DCGAN:
    """Return both networks that the config asks for. Raises `UserError` when they do not fit the images."""
    about = image_set(config)
    try:
        return build(config.model, channels=about.channels, image_size=about.size)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None


@shown
def for_both(make: MakeOne) -> MakeOptimizer:
    """Return what makes two optimizers, the generator's and the discriminator's."""
    return lambda model: [make(model.generator), make(model.discriminator)]


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model = build_model(config)
    optimizer = for_both(adamw(config.lr, weight_decay=config.weight_decay, betas=(config.beta1, 0.999)))
    trainer = Trainer(model, Adversarial(model.latent), optimizer, constant(), config, AdversarialStep)
    return trainer.fit(data or image_splits(config, to_input=signed))


if __name__ == "__main__":
    launch(main, Config)
