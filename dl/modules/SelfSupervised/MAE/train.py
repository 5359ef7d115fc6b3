"""Train an encoder without labels: a masked autoencoder. What it reconstructs is a figure of the run.

python -m dl.modules.SelfSupervised.MAE.train
python -m dl.modules.SelfSupervised.MAE.train --data folder:images --image-size 64 --out runs/SelfSupervised/MAE-mine
"""

from dataclasses import dataclass

import torch

from dl.modules.SelfSupervised.MAE.model import MAE, PRESETS, build
from dl.modules.SelfSupervised.MAE.task import Reconstruction
from dl.modules.SelfSupervised.views import ViewsConfig, bank, make_view, view_splits
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Batch, Splits, image_set
from dl.mytorch.data.augment import Transform
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ViewsConfig):
    """Train an encoder by MAE."""

    out: str = "runs/SelfSupervised/MAE"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 20
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 0.05
    eval_every: int = 880  # five epochs: each evaluation encodes the training set
    min_scale: float = 0.2
    color: float = 0.0  # section 4.1: crops and flips are enough, changes of colour do harm
    grey: float = 0.0
    mask_ratio: float = flag(0.75, "share of the patches that is hidden")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("mask_ratio", 0 < self.mask_ratio < 1, "above 0 and below 1")


def build_model(config: Config) -> MAE:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    try:
        model = build(config.model, image_size=about.size, in_channels=about.channels, mask_ratio=config.mask_ratio)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None
    visible = int(model.num_patches * (1 - config.mask_ratio))
    if not 0 < visible < model.num_patches:
        raise UserError(f"--mask-ratio {config.mask_ratio}: of {model.num_patches} patches {visible} would be visible")
    return model


def masked(make: Transform, num_patches: int) -> Transform:
    """Return what adds "noise" (B, N), evenly from 0 to 1, to the batches of `make`."""

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        made = make(batch, generator)
        noise = torch.rand(len(made["images"]), num_patches, generator=generator)
        return made | {"noise": noise.to(made["images"].device)}

    return apply


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model = build_model(config)
    train, evaluation = (masked(make, model.num_patches) for make in (make_view(config), image_set(config).standard))
    data = view_splits(config, train, evaluation, data)
    trainer = Trainer(
        model=model,
        task=Reconstruction(bank(config, data), model.dim),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.95)),
        schedule=warmup_cosine(warmup=0.1),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
