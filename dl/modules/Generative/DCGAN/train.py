"""Train a generative adversarial network on images; what its generator draws is a figure of the run.

python -m dl.modules.Generative.DCGAN.train
python -m dl.modules.Generative.DCGAN.train --loss wgan_gp --critic-steps 3 --beta1 0 --beta2 0.9 --batch-size 64
python -m dl.modules.Generative.DCGAN.train --data folder:images --image-size 64 --model lsun --out runs/Generative/lsun
python -m dl.modules.Generative.DCGAN.train --data fashion_mnist-sample --epochs 5 --out runs/Generative/DCGAN-sample
"""

import math
from dataclasses import dataclass
from typing import Literal

from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Generative.DCGAN.model import DCGAN, PRESETS, build
from dl.modules.Generative.DCGAN.step import AdversarialStep
from dl.modules.Generative.DCGAN.task import Adversarial, WassersteinGP
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
    beta2: float = flag(0.999, "Adam's decay of the mean of their squares")
    loss: Literal["gan", "wgan_gp"] = flag("gan", "wgan_gp: a critic whose gradient is held near 1 by a penalty")
    critic_steps: int = flag(1, "updates of the discriminator for each of the generator's")
    penalty: float = flag(10.0, "weight of wgan_gp's gradient penalty")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta1", "beta2"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._check("critic_steps", self.critic_steps >= 1, "at least 1")
        self._check("penalty", 0 <= self.penalty < math.inf, "a finite number of at least 0")
        if self.loss == "wgan_gp" and (self.compile or self.parallel not in ("none", "ddp")):
            wish = "--compile" if self.compile else f"--parallel {self.parallel}"
            raise UserError(f"{wish}: --loss wgan_gp needs gradients of gradients, which it cannot give; leave it out")


def build_model(config: Config) -> DCGAN:
    """Return both networks that the config asks for. Raises `UserError` when they do not fit the images."""
    about, norm = image_set(config), "batch" if config.loss == "gan" else "layer"
    try:
        return build(config.model, channels=about.channels, image_size=about.size, norm=norm)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None


@shown
def for_both(make: MakeOne) -> MakeOptimizer:
    """Return what makes two optimizers, the generator's and the discriminator's."""
    return lambda model: [make(model.generator), make(model.discriminator)]


def task(config: Config, latent: int) -> Adversarial:
    """Return the game that the config asks for."""
    if config.loss == "gan":
        return Adversarial(latent, config.critic_steps)
    return WassersteinGP(latent, config.critic_steps, config.penalty)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model = build_model(config)
    optimizer = for_both(adamw(config.lr, weight_decay=config.weight_decay, betas=(config.beta1, config.beta2)))
    trainer = Trainer(model, task(config, model.latent), optimizer, constant(), config, AdversarialStep)
    return trainer.fit(data or image_splits(config, to_input=signed))


if __name__ == "__main__":
    launch(main, Config)
