"""Train latent diffusion on the latents of a trained autoencoder: the second stage. Its samples are a figure of the run.

python -m dl.modules.Diffusion.LatentDiffusion.train --autoencoder runs/Diffusion/LatentDiffusion-autoencoder
python -m dl.modules.Diffusion.LatentDiffusion.train --condition class --out runs/Diffusion/LatentDiffusion-class
python -m dl.modules.Diffusion.LatentDiffusion.train --autoencoder runs/autoencoder-sample --data fashion_mnist-sample
"""

from dataclasses import dataclass
from os.path import expanduser
from typing import Literal

from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM.data import ImagesConfig
from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.LatentDiffusion.model import PRESETS, LatentDiffusion, build
from dl.modules.Diffusion.LatentDiffusion.task import LatentDenoising, encoded, std_of_latents
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.distributed import device
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ImagesConfig):
    """Train latent diffusion."""

    out: str = "runs/Diffusion/LatentDiffusion"
    autoencoder: str = flag(
        "runs/Diffusion/LatentDiffusion-autoencoder",
        "folder of a run of train_autoencoder on such images; it has to stay there",
    )
    model: str = flag("small", "preset of the network, see PRESETS in model.py", choices=PRESETS)
    condition: Literal["text", "class", "none"] = flag("text", "the names of the classes as texts, their labels, or nothing")
    drop_label: float = flag(0.1, "probability that training hides the condition, for classifier-free guidance")
    times: int = flag(1000, "time steps T of the process")
    schedule: Literal["linear", "cosine"] = flag("cosine", "how the noise grows")
    prediction: Literal["epsilon", "x0", "v"] = flag("v", "what the network predicts")
    encode_once: bool = flag(True, "encode images in memory once, before training, unless training changes them")
    epochs: int = 4
    batch_size: int = 64
    lr: float = 1e-3
    grad_clip: float = 1.0
    ema: float = 0.998
    channels_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("drop_label", 0 <= self.drop_label <= 1, "from 0 to 1")
        self._check("times", self.times >= 1, "at least 1")
        object.__setattr__(self, "autoencoder", expanduser(self.autoencoder))


def build_model(config: Config) -> LatentDiffusion:
    """Return a new network and a new autoencoder of the sizes of `config.autoencoder`; best.pt has the weights of both.

    Raises `UserError` when that run is not there, or is one on other images.
    """
    run = Run.open(config.autoencoder, "Diffusion/LatentDiffusion")
    if not hasattr(run.config, "kl_weight"):
        raise UserError(f"--autoencoder {config.autoencoder} is a run of train.py; one of train_autoencoder.py is asked for")
    own, theirs = image_set(config), image_set(run.config)
    if (own.channels, own.size) != (theirs.channels, theirs.size):
        raise UserError(f"--data {config.data} has other images than --autoencoder {config.autoencoder} was trained on")
    return build(
        config.model,
        autoencoder=run.module.build_model(run.config),
        image_size=own.size,
        num_classes=0 if config.condition == "none" else len(own.classes),
        texts=own.classes if config.condition == "text" else (),
    )


def process(config: Config) -> DiffusionSchedule:
    """Return the forward process that the config asks for."""
    return DiffusionSchedule(config.schedule, config.prediction, config.times)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model = build_model(config).to(device(config.device))
    model.autoencoder.load_state_dict(Run.open(config.autoencoder).model().state_dict())
    changed = config.hflip or config.crop
    data = data or image_splits(config, to_input=signed)
    if config.encode_once and data.train.in_memory and not changed:
        data = encoded(data, model.autoencoder)
    model.set_scale(std_of_latents(data, model.autoencoder))
    trainer = Trainer(
        model=model,
        task=LatentDenoising(process(config), model, config.drop_label),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
