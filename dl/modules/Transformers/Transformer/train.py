"""Train a Transformer to translate.

    python -m dl.modules.Transformers.Transformer.train
    python -m dl.modules.Transformers.Transformer.train --data multi30k --out runs/Transformers/Transformer-multi30k
    torchrun --nproc_per_node=2 -m dl.modules.Transformers.Transformer.train --data fra-eng --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from dl.modules.Transformers.Transformer.model import PRESETS, build
from dl.modules.Transformers.Transformer.task import Translation
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import TextSplits, translation
from dl.mytorch.optim import adamw, noam


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train a Transformer."""

    out: str = "runs/Transformers/Transformer"
    data: Literal["fra-eng-sample", "fra-eng", "multi30k"] = flag("fra-eng-sample", "pairs: English-French, or German-English")
    model: Literal["small", "base", "big", "tiny"] = flag("small", "preset of the network, see model.py")
    dropout: float = flag(0.1, "dropout of embeddings and layers; the paper: 0.1 for base, 0.3 for big")
    label_smoothing: float = flag(0.1, "share of the target that is spread over all words")
    min_count: int = flag(2, "words that are rarer in the training pairs become <unk>")
    beams: int = flag(1, "beam of the search whose BLEU is recorded, 1 = greedy; the paper: 4")
    epochs: int = 30
    batch_size: int = 64
    lr: float = flag(0.3, "factor of the schedule of equation 3; the paper: 1, with a larger model and a longer warmup")
    warmup: int = flag(100, "steps in which the learning rate rises; the paper: 4000")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_count", "beams", "warmup"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("dropout", "label_smoothing"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")


def network(config: Config, vocabulary_size: int) -> nn.Module:
    """The network that the config asks for."""
    return build(config.model, vocabulary_size=vocabulary_size, dropout=config.dropout)


def main(config: Config, data: TextSplits | None = None) -> History:
    seed_everything(config.seed)
    data = data or translation(config, config.min_count, shared=True)
    vocabulary = data.vocabularies["target"]  # the source's as well
    trainer = Trainer(
        model=network(config, len(vocabulary)),
        task=Translation(vocabulary, config.label_smoothing, config.beams),
        optimizer=adamw(config.lr, config.weight_decay, betas=(0.9, 0.98), eps=1e-9),  # section 5.3
        schedule=noam(PRESETS[config.model]["dim"], config.warmup),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
