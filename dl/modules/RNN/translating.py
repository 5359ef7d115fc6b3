"""What the recipes of Seq2Seq and BahdanauAttention share: flags, data, task, optimizer, schedule."""

from dataclasses import dataclass
from typing import Any, Callable, Literal, Mapping

from torch import nn

from dl.mytorch import History, TrainConfig, Trainer, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import TextSplits, Vocabulary, translation
from dl.mytorch.optim import adamw, warmup_cosine
from dl.mytorch.text.decoding import MOST_BEAMS
from dl.mytorch.text.translation import Translation


@dataclass(frozen=True)
class TranslationConfig(TrainConfig):
    """What a recipe that trains a recurrent translator can be told beside."""

    data: Literal["fra-eng-sample", "fra-eng", "fra-eng-d2l", "multi30k"] = flag(
        "fra-eng-sample", "pairs: English-French, all, those of the d2l book, or bundled ones; German-English"
    )
    dropout: float = flag(-1.0, "dropout of embeddings and layers; -1: that of the preset")
    label_smoothing: float = flag(0.0, "share of the target that is spread over all words")
    min_count: int = flag(2, "words that are rarer in the training pairs become <unk>")
    beams: int = flag(1, "beam of the search whose BLEU is recorded, 1 = greedy")
    monitor: Literal["loss", "bleu_error"] = flag("loss", "validation quantity that chooses the best checkpoint")
    epochs: int = 20
    batch_size: int = 64
    lr: float = 2e-3
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("min_count", "beams"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("beams", self.beams <= MOST_BEAMS, f"at most {MOST_BEAMS:,}")
        self._check("dropout", self.dropout == -1 or 0 <= self.dropout < 1, "at least 0 and below 1, or -1")
        self._check("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1")


def build_for(
    config: TranslationConfig, vocabularies: Mapping[str, Vocabulary], build: Callable[..., nn.Module]
) -> nn.Module:
    """The network that the config asks for; `build` is that of its model.py."""
    options: dict[str, Any] = {} if config.dropout == -1 else {"dropout": config.dropout}
    sizes = {"source_vocabulary_size": len(vocabularies["source"]), "vocabulary_size": len(vocabularies["target"])}
    return build(config.model, **sizes, **options)


def train(
    config: TranslationConfig,
    build: Callable[..., nn.Module],
    data: TextSplits | None = None,
    task: type[Translation] = Translation,
) -> History:
    """The `main` of a recipe."""
    seed_everything(config.seed)
    data = data or translation(config, config.min_count)
    trainer = Trainer(
        model=build_for(config, data.vocabularies, build),
        task=task(data.vocabularies, config.label_smoothing, config.beams, config.monitor),
        optimizer=adamw(config.lr, config.weight_decay, fused=True),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data)
