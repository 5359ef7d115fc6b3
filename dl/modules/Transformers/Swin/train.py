"""Train a Swin Transformer on small images.

python -m dl.modules.Transformers.Swin.train
python -m dl.modules.Transformers.Swin.train --data cifar10 --out runs/Transformers/Swin-cifar10
python -m dl.modules.Transformers.Swin.train --data folder:images --model swin_t --epochs 300 --out runs/Transformers/Swin-T
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.CNN.finetuning import FineTuningConfig, rates, start
from dl.modules.Transformers.Swin.model import PRESETS, build
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.optim import adamw, warmup_cosine
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """Train a Swin Transformer."""

    out: str = "runs/Transformers/Swin"
    model: str = flag(
        "small", "preset of the network, see model.py; up to 64 pixels they get patches of 2 pixels", choices=PRESETS
    )
    window_size: int = flag(0, "side of a window in patches; 0 = 4 for images of 32 or 64 pixels, else 7")
    epochs: int = 10
    lr: float = 1e-3
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    label_smoothing: float = 0.1
    crop: int = 2
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("window_size", 0 <= self.window_size <= 64, "from 0 to 64")


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for."""
    about = image_set(config)
    whole = 4 if about.size in (32, 64) else 7  # maps of 16 and 32 have windows of 4 without padding, 14, 28, 56 those of 7
    overrides = {"patch_size": 2} if about.small and config.model != "tiny" else {}
    if config.window_size or config.model != "tiny":
        overrides["window_size"] = config.window_size or whole
    return build(config.model, in_channels=about.channels, num_classes=len(about.classes), **overrides)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=start(build_model(config), config),
        task=Classification(config.label_smoothing, image_set(config).classes),
        optimizer=rates(adamw(config.lr, config.weight_decay), config),
        schedule=warmup_cosine(warmup=0.1),
        config=config,
    )
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
