"""Train the autoencoder of latent diffusion on images: the first stage. train.py trains the second, which draws.

python -m dl.modules.Diffusion.LatentDiffusion.train_autoencoder
python -m dl.modules.Diffusion.LatentDiffusion.train_autoencoder --data fashion_mnist-sample --out runs/autoencoder-sample
"""

from dataclasses import dataclass

from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Diffusion.LatentDiffusion.autoencoder import AUTOENCODERS, Autoencoder, build_autoencoder
from dl.modules.Diffusion.LatentDiffusion.task import Reconstruction
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ImagesConfig):
    """Train the autoencoder of latent diffusion."""

    out: str = "runs/Diffusion/LatentDiffusion-autoencoder"
    model: str = flag("small", "preset of the autoencoder, see autoencoder.py", choices=AUTOENCODERS)
    kl_weight: float = flag(1e-3, "weight of the latents' KL divergence from a normal distribution")
    epochs: int = 3
    batch_size: int = 64
    lr: float = 2e-3
    grad_clip: float = 1.0
    channels_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("kl_weight", self.kl_weight >= 0, "0 or more")


def build_model(config: Config) -> Autoencoder:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    model = build_autoencoder(config.model, in_channels=about.channels)
    try:
        model.side(about.size)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None
    return model


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build_model(config),
        task=Reconstruction(config.kl_weight),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config, to_input=signed))


if __name__ == "__main__":
    launch(main, Config)
