"""Train a VQ-VAE on images: the first stage. prior.py trains the second, which draws.

python -m dl.modules.Generative.VQVAE.train
python -m dl.modules.Generative.VQVAE.train --codebook-decay 0 --out runs/Generative/VQVAE-gradient
python -m dl.modules.Generative.VQVAE.train --data fashion_mnist-sample --epochs 5 --out runs/Generative/VQVAE-sample
"""

from dataclasses import dataclass

from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Generative.VQVAE.model import PRESETS, VQVAE, build
from dl.modules.Generative.VQVAE.task import Reconstruction
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ImagesConfig):
    """Train a VQ-VAE."""

    out: str = "runs/Generative/VQVAE"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    codebook_decay: float = flag(0.99, "of the moving average that is the codebook; 0 = it learns by gradient")
    restart: float = flag(0.5, "entries of the codebook that fewer vectors a step take begin again; 0 = none does")
    beta: float = flag(0.25, "weight of the commitment loss")  # section 3.2
    epochs: int = 2
    batch_size: int = 64
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("codebook_decay", 0 <= self.codebook_decay < 1, "at least 0 and below 1")
        self._check("restart", self.restart >= 0, "0 or more")
        self._check("beta", self.beta > 0, "above 0: else nothing keeps the encoder near the codebook")


def build_model(config: Config) -> VQVAE:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    try:
        codebook = {"decay": config.codebook_decay, "restart": config.restart}
        return build(config.model, **codebook, in_channels=about.channels, image_size=about.size)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model = build_model(config)
    trainer = Trainer(
        model=model,
        task=Reconstruction(model.quantizer.num_codes, config.beta),
        optimizer=adamw(config.lr, weight_decay=0.0),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config, to_input=signed))


if __name__ == "__main__":
    launch(main, Config)
