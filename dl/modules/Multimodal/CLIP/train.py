"""Train CLIP on emoji and their names in two languages; what it finds for emoji that it has never seen is a figure of the run.

python -m dl.modules.Multimodal.CLIP.train
python -m dl.modules.Multimodal.CLIP.train --data emoji-sample --epochs 3 --batch-size 8
python -m dl.modules.Multimodal.CLIP.train --model vit_small --loss siglip
"""

from dataclasses import dataclass
from typing import Literal

from dl.modules.Multimodal.CLIP.data import PairConfig, pair_splits, split
from dl.modules.Multimodal.CLIP.model import CLIP, PRESETS, build, example
from dl.modules.Multimodal.CLIP.task import ClippedStep, Contrastive
from dl.modules.Multimodal.CLIP.tokens import tokenizer
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(PairConfig):
    """Train CLIP."""

    out: str = "runs/Multimodal/CLIP"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    loss: Literal["clip", "siglip"] = flag("clip", "clip: which text of the batch is the image's; siglip: each pair by itself")
    epochs: int = 300
    batch_size: int = 256
    lr: float = 2e-3
    weight_decay: float = 0.1
    eval_every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accumulate > 1:
            raise UserError("--accumulate is for losses of single examples; this one compares the pairs of one forward pass")


def build_model(config: Config) -> CLIP:
    """Return the network that the config asks for."""
    return build(config.model, siglip=config.loss == "siglip")


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model = build_model(config)
    shown = None
    if data is None:
        emoji = split(config, example(config.model)[0].shape[-1])
        data, shown = pair_splits(config, tokenizer(model.text), emoji), emoji["test"]
    task = Contrastive(config.loss == "siglip", shown)
    optimizer = adamw(config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    return Trainer(model, task, optimizer, warmup_cosine(0.05), config, step=ClippedStep).fit(data)


if __name__ == "__main__":
    launch(main, Config)
