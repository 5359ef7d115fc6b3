"""Train a GPT as the prior over the codes of a trained VQ-VAE: the second stage. Its run draws images.

python -m dl.modules.Generative.VQVAE.prior
python -m dl.modules.Generative.VQVAE.prior --autoencoder runs/Generative/VQVAE-sample --data fashion_mnist-sample
"""

from dataclasses import dataclass
from os.path import expanduser

from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Generative.VQVAE.model import PRIORS, CodePrior
from dl.modules.Generative.VQVAE.task import CodeLikelihood
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ImagesConfig):
    """Train a prior over the codes of a VQ-VAE."""

    out: str = "runs/Generative/VQVAE-prior"
    autoencoder: str = flag("runs/Generative/VQVAE", "folder of the run of a VQ-VAE on the same images; it has to stay there")
    model: str = flag("small", "preset of the prior, see PRIORS in model.py", choices=PRIORS)
    epochs: int = 3
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "autoencoder", expanduser(self.autoencoder))


def build_model(config: Config) -> CodePrior:
    """Return a new prior and a new autoencoder of the sizes of `config.autoencoder`; best.pt has the weights of both.

    Raises `UserError` when that run is not there, or is one on other images.
    """
    run = Run.open(config.autoencoder, "Generative/VQVAE")
    if not hasattr(run.config, "codebook_decay"):
        raise UserError(f"--autoencoder {config.autoencoder} is a prior itself; the run of a VQ-VAE is asked for")
    own, theirs = image_set(config), image_set(run.config)
    if (own.channels, own.size) != (theirs.channels, theirs.size):
        raise UserError(f"--data {config.data} has other images than --autoencoder {config.autoencoder} was trained on")
    return CodePrior(run.module.build_model(run.config), **PRIORS[config.model])


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model, about = build_model(config), image_set(config)
    model.autoencoder.load_state_dict(Run.open(config.autoencoder).model().state_dict())
    trainer = Trainer(
        model=model,
        task=CodeLikelihood(model.num_codes, model.length / (about.channels * about.size**2)),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config, to_input=signed))


if __name__ == "__main__":
    launch(main, Config)
