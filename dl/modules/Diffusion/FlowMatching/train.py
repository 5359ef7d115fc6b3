"""Train a flow on images; its samples are a figure of the run.

python -m dl.modules.Diffusion.FlowMatching.train
python -m dl.modules.Diffusion.FlowMatching.train --data fashion_mnist-sample --epochs 3 --out runs/Diffusion/flow-sample
"""

from dataclasses import dataclass

from dl.modules.Diffusion.DDPM.data import DiffusionConfig, fitting
from dl.modules.Diffusion.DDPM.task import Denoising
from dl.modules.Diffusion.FlowMatching.flow import Flow, euler
from dl.modules.Diffusion.FlowMatching.model import UNet, build
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.data.augment import signed
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(DiffusionConfig):
    """Train a flow by flow matching."""

    out: str = "runs/Diffusion/FlowMatching"


def build_model(config: Config) -> UNet:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    model = build(config.model, in_channels=about.channels, num_classes=len(about.classes) if config.classes else 0)
    return fitting(model, config)


def process(config: Config) -> Flow:
    """Return what stands in for DDPM's process; there is but one."""
    return Flow()


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about = image_set(config)
    trainer = Trainer(
        model=build_model(config),
        task=Denoising(process(config), (about.channels, about.size, about.size), config.drop_label, sampler=euler),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or image_splits(config, to_input=signed))


if __name__ == "__main__":
    launch(main, Config)
