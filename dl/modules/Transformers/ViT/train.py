"""Train a ViT on small images.

python -m dl.modules.Transformers.ViT.train
python -m dl.modules.Transformers.ViT.train --model vit_ti_16 --out runs/Transformers/ViT-Ti
torchrun --nproc_per_node=2 -m dl.modules.Transformers.ViT.train --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.CNN.finetuning import FineTuningConfig, rates, start
from dl.modules.Transformers.ViT.model import PRESETS, build
from dl.modules.Transformers.ViT.task import AttentiveClassification
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set, image_splits
from dl.mytorch.layers import use_fast_dropout
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """Train a ViT."""

    out: str = "runs/Transformers/ViT"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    patch_size: int = flag(
        0, "side of a patch in pixels; 0 = 4 for images of up to 64 pixels, for larger ones the preset's (small: 16)"
    )
    dropout: float = flag(0.0, "dropout of embeddings and linear layers")
    epochs: int = 20
    lr: float = 1e-3
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    crop: int = 2
    hflip: bool = True
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # 1.7 times as fast on a CPU with avx512_bf16

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("patch_size", self.patch_size >= 0, "0 or more")
        self._check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")


def build_model(config: Config) -> nn.Module:
    """Return the network that the config asks for. Raises `UserError` when its patches do not divide the images."""
    about = image_set(config)
    preset = PRESETS[config.model]
    patch_size = 4 if about.small else preset["patch_size"] if preset["image_size"] > 64 else 16
    try:
        model = build(
            config.model,
            image_size=about.size,
            patch_size=config.patch_size or patch_size,
            in_channels=about.channels,
            num_classes=len(about.classes),
            dropout=config.dropout,
        )
    except ValueError as error:
        raise UserError(f"--data {config.data}: {error}; give a --patch-size that does") from None
    return use_fast_dropout(model)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=start(build_model(config), config),
        task=AttentiveClassification(config.label_smoothing, image_set(config).classes),
        optimizer=rates(adamw(config.lr, config.weight_decay), config),
        schedule=warmup_cosine(warmup=0.1),
        config=config,
    )
    return trainer.fit(data or image_splits(config))


if __name__ == "__main__":
    launch(main, Config)
