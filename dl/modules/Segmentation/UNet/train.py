"""Train a U-Net on images with masks; the worst predictions are a figure of the run.

python -m dl.modules.Segmentation.UNet.train
python -m dl.modules.Segmentation.UNet.train --data masks:images --out runs/Segmentation/UNet-mine
python -m dl.modules.Segmentation.UNet.train --model unet --window 388 --batch-size 1 --momentum 0.99 --lr 1e-4 --steps 60000
"""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from dl.modules.Segmentation.task import Segmentation
from dl.modules.Segmentation.UNet.model import PRESETS, UNet, build
from dl.modules.Segmentation.UNet.weights import border_weights, class_weights
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.images.masks import MaskConfig, MaskSet, mask_set, mask_splits
from dl.mytorch.optim import adamw, sgd, warmup_cosine


@dataclass(frozen=True)
class Config(MaskConfig):
    """Train a U-Net."""

    out: str = "runs/Segmentation/UNet"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 60
    batch_size: int = 4
    lr: float = 2e-3
    window: int = 256
    zoom: float = 0.1
    jitter: float = 0.2
    eval_every: int = 60
    border: float = flag(10.0, "w0 of equation 2: weight of pixels between two cells that touch; 0 = none")
    sigma: float = flag(5.0, "sigma of equation 2, pixels")
    balance: bool = flag(False, "w_class of equation 2: all classes of a mask weigh the same; else it is 1")
    momentum: float = flag(0.0, "SGD with this momentum, the paper's is 0.99; 0 = AdamW")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("border", 0 <= self.border <= 1e6, "from 0 to 1e6")
        self._check("sigma", 0 < self.sigma <= 100, "above 0 and at most 100")
        self._check("momentum", 0 <= self.momentum < 1, "at least 0 and below 1")


def build_model(config: Config, about: MaskSet | None = None) -> UNet:
    """Return the network that the config asks for, for images `about`; default: those of the config."""
    about = about or mask_set(config)
    return build(config.model, in_channels=about.channels, num_classes=len(about.classes))


def pixel_weights(config: Config, mask: Tensor) -> Tensor:
    """Return w of equation 2 for each pixel of a mask (H, W)."""
    base = class_weights(mask) if config.balance else torch.ones(mask.shape)
    return base + border_weights(mask, config.border, config.sigma) if config.border else base


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about = mask_set(config)
    model = build_model(config, about)
    optimizer = sgd(config.lr, config.momentum) if config.momentum else adamw(config.lr, weight_decay=config.weight_decay)
    weigh = functools.partial(pixel_weights, config) if config.border or config.balance else None
    data = data or mask_splits(config, model.margin, weigh)
    trainer = Trainer(model, Segmentation(about.classes), optimizer, warmup_cosine(0.05), config)
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
