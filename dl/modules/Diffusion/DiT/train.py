"""Train DiT on images, as DDPM is trained; its samples are a figure of the run.

    python -m dl.modules.Diffusion.DiT.train
    python -m dl.modules.Diffusion.DiT.train --schedule linear --prediction epsilon --learned-variance \\
        --out runs/Diffusion/DiT-paper    # the paper's process
    python -m dl.modules.Diffusion.DiT.train --data cifar10 --model dit_s_2 --hflip --epochs 500 --lr 1e-4 --ema 0.9999 \\
        --out runs/Diffusion/DiT-S
"""

from dataclasses import dataclass

from dl.modules.Diffusion.DDPM import train as ddpm
from dl.modules.Diffusion.DDPM.train import process as process  # sample.py asks the recipe for it
from dl.modules.Diffusion.DDPM.train import train
from dl.modules.Diffusion.DiT.model import PRESETS, DiT, build
from dl.mytorch import History, launch
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ddpm.Config):
    """Train DiT."""

    out: str = "runs/Diffusion/DiT"
    model: str = flag("small", "preset, see model.py", choices=PRESETS)
    lr: float = 1e-3


def build_model(config: Config) -> DiT:
    """Return the network that the config asks for. Raises `UserError` when its patches do not fit the images."""
    about = image_set(config)
    try:
        return build(
            config.model,
            image_size=about.size,
            in_channels=about.channels,
            out_channels=about.channels * (2 if config.learned_variance else 1),
            num_classes=len(about.classes) if config.classes else 0,
        )
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, weight_decay=config.weight_decay)
    return train(config, build_model, data, optimizer, warmup_cosine(warmup=0.05))


if __name__ == "__main__":
    launch(main, Config)
