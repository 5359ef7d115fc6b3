"""Train a Transformer to translate.

python -m dl.modules.Transformers.Transformer.train
python -m dl.modules.Transformers.Transformer.train --data multi30k --out runs/Transformers/Transformer-multi30k
torchrun --nproc_per_node=2 -m dl.modules.Transformers.Transformer.train --data fra-eng --parallel ddp
"""

from dataclasses import dataclass
from typing import Literal, Mapping

from torch import nn

from dl.modules.Transformers.Transformer.model import PRESETS, build
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, Vocabulary, translation
from dl.mytorch.layers import use_fast_dropout
from dl.mytorch.optim import Schedule, adamw, constant, noam, warmup_cosine
from dl.mytorch.text.translation import Translation, TranslationConfig


@dataclass(frozen=True)
class Config(TranslationConfig):
    """Train a Transformer."""

    out: str = "runs/Transformers/Transformer"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    norm_first: bool = flag(False, "norms stand before the layers, not after them as in the paper")
    shared: bool = flag(True, "one vocabulary, and one embedding, for both languages, as in the paper")
    dropout: float = flag(0.1, "dropout of embeddings and layers; the paper: 0.1 for base, 0.3 for big")
    label_smoothing: float = 0.1
    epochs: int = 30
    schedule: Literal["noam", "cosine", "constant"] = flag("noam", "learning rate: noam is equation 3, both others have a peak")
    lr: float = flag(0.3, "factor of equation 3 (the paper: 1, with a larger model and a longer warmup), else the peak")
    warmup: int = flag(100, "steps in which the learning rate rises; the paper: 4000")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("warmup", self.warmup >= 1, "at least 1")
        self._check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    source = None if config.shared else len(vocabularies["source"])
    options = {"dropout": config.dropout, "norm_first": config.norm_first, "source_vocabulary_size": source}
    return use_fast_dropout(build(config.model, vocabulary_size=len(vocabularies["target"]), **options))


def schedule(config: Config) -> Schedule:
    """Return the schedule of the learning rate that the config names."""
    if config.schedule == "noam":
        return noam(PRESETS[config.model]["dim"], config.warmup)
    return warmup_cosine(config.warmup) if config.schedule == "cosine" else constant()


def check_lengths(model: nn.Module, data: Splits) -> None:
    """Raise `UserError` for a sentence longer than the network's positions: before training, not at some step of it."""
    longest = max(len(ids) for part in filter(None, data) for ids in part.dataset.sources + part.dataset.targets)
    if longest > model.max_length:
        raise UserError(f"the longest sentence has {longest} words and marks; the network has {model.max_length} positions")


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    data = data or translation(config, config.min_count, config.shared)
    model = build_model(config, data.vocabularies)
    check_lengths(model, data)
    trainer = Trainer(
        model=model,
        task=Translation(data.vocabularies, config.label_smoothing, config.num_beams, config.monitor),
        optimizer=adamw(config.lr, config.weight_decay, betas=(0.9, 0.98), eps=1e-9),  # section 5.3
        schedule=schedule(config),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
