"""Train a variational autoencoder on images; what it draws is a figure of the run.

python -m dl.modules.Generative.VAE.train
python -m dl.modules.Generative.VAE.train --model mlp2 --out runs/Generative/VAE-mlp2    # draws the plane of both variables
python -m dl.modules.Generative.VAE.train --data fashion_mnist-sample --epochs 5 --out runs/Generative/VAE-sample
"""

from dataclasses import dataclass

from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Generative.VAE.model import PRESETS, VAE, build
from dl.modules.Generative.VAE.task import NegativeELBO
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ImagesConfig):
    """Train a variational autoencoder."""

    out: str = "runs/Generative/VAE"
    model: str = flag("mlp20", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 20
    batch_size: int = 100  # section 5


def build_model(config: Config) -> VAE:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    try:
        return build(config.model, in_channels=about.channels, image_size=about.size)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build_model(config),
        task=NegativeELBO(),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config, to_input=signed))


if __name__ == "__main__":
    launch(main, Config)
