"""What the recipes of Seq2Seq and BahdanauAttention share: flags, data, task, optimizer, schedule."""

from dataclasses import dataclass
from typing import Any, Callable, Mapping

from torch import nn

from dl.mytorch import History, Trainer, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary, translation
from dl.mytorch.optim import adamw, warmup_cosine
from dl.mytorch.text.translation import Translation, TranslationConfig


@dataclass(frozen=True)
class RecurrentConfig(TranslationConfig):
    """What a recipe that trains a recurrent translator can be told beside."""

    dropout: float = flag(-1.0, "dropout of embeddings and layers; -1: that of the preset")
    data: str = "multi30k"
    epochs: int = 6
    batch_size: int = 128
    lr: float = 2e-3
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("dropout", self.dropout == -1 or 0 <= self.dropout < 1, "at least 0 and below 1, or -1")


def build_for(config: RecurrentConfig, vocabularies: Mapping[str, Vocabulary], build: Callable[..., nn.Module]) -> nn.Module:
    """Return the network that the config asks for; `build` is that of its model.py."""
    options: dict[str, Any] = {} if config.dropout == -1 else {"dropout": config.dropout}
    sizes = {"source_vocabulary_size": len(vocabularies["source"]), "vocabulary_size": len(vocabularies["target"])}
    return build(config.model, **sizes, **options)


def train(
    config: RecurrentConfig,
    build: Callable[..., nn.Module],
    data: Splits | None = None,
    task: type[Translation] = Translation,
) -> History:
    """Train as the config says, and return the history: the `main` of a recipe."""
    seed_everything(config.seed)
    data = data or translation(config, config.min_count)
    trainer = Trainer(
        model=build_for(config, data.vocabularies, build),
        task=task(data.vocabularies, config.label_smoothing, config.num_beams, config.monitor),
        optimizer=adamw(config.lr, config.weight_decay, fused=True),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data)
