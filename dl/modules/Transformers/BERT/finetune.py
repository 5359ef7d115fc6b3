"""Fine-tune pretrained BERT on sentiment classification (SST-2).

    python -m dl.modules.Transformers.BERT.finetune --data sst2 --weights PATH

PATH is a folder with config.json, model.safetensors (or pytorch_model.bin) and vocab.txt (or tokenizer.json), as
https://huggingface.co/google-bert/bert-base-uncased and https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 have
them. For the second `--pooling mean` is the better start: it was trained on means.
"""

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Literal, Mapping

from torch import nn

from dl.modules.Transformers.BERT.classifier import SentenceClassifier
from dl.modules.Transformers.BERT.convert import DEFAULTS, SCHEMA, encoder_from, from_folder
from dl.modules.Transformers.BERT.model import BERT
from dl.modules.Transformers.BERT.wordpiece import WordPiece
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.data.text.labelled import class_count, is_known, labelled_splits
from dl.mytorch.distributed import is_main
from dl.mytorch.files import read_json, read_recorded_json, write_recorded_json
from dl.mytorch.layers import use_fast_dropout
from dl.mytorch.optim import adamw, warmup_linear
from dl.mytorch.text.tasks import SentenceClassification

ENCODER = "encoder.json"  # in a run's folder: the config.json of the pretrained weights, but for what is no size


@dataclass(frozen=True)
class Config(TrainConfig):
    """Fine-tune pretrained BERT to classify sentences."""

    out: str = "runs/Transformers/BERT-sst2"
    data: str = flag(
        "sst2", "name of the data set, or labelled:FILE: own sentences, a .csv or lines with a tab before the label"
    )
    weights: str = flag("", "folder with config.json, model.safetensors and vocab.txt")
    pooling: Literal["first", "mean", "both"] = flag("first", "what sums a sentence up: its first token, the mean of all, both")
    length: int = flag(64, "tokens of a sentence, with [CLS] and [SEP]; longer ones are cut")
    epochs: int = 3
    batch_size: int = 32
    lr: float = 5e-5
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "weights", expanduser(self.weights))
        self._check("data", is_known(self.data), "sst2, or labelled:FILE")
        self._check("weights", self.weights.strip() != "", "the folder of pretrained weights")
        self._check("length", self.length >= 3, "at least 3")


def check(encoder: BERT, vocabulary: Vocabulary, config: Config) -> None:
    """Raise `UserError` if vocabulary or length do not fit the encoder."""
    known, most = encoder.token_embedding.num_embeddings, len(encoder.position_embedding)
    if len(vocabulary) != known:
        raise UserError(f"{config.weights}: the vocabulary has {len(vocabulary)} tokens, the weights have {known}")
    if encoder.pooler is None:
        raise UserError(f"{config.weights}: the weights are without a pooler, which the classifier starts from")
    if config.length > most:
        raise UserError(f"--length {config.length} is more than the {most} positions of {config.weights}")


class FineTuner(Trainer):
    """A trainer that keeps the configuration of the encoder in the run's folder, which opens without the pretrained weights."""

    def open_folder(self, data: Splits) -> None:
        super().open_folder(data)
        pretrained, kept = Path(self.config.weights) / "config.json", self.out / ENCODER
        config = {name: value for name, value in read_json(pretrained, SCHEMA).items() if name in DEFAULTS}
        if (self.out / "last.pt").exists() and kept.exists() and read_recorded_json(kept, SCHEMA) != config:
            raise UserError(f"{kept} is of another network than {pretrained}: choose another --out, or --fresh")
        if is_main():
            write_recorded_json(config, kept)


def classifier(encoder: BERT, config: Config, num_classes: int) -> nn.Module:
    """Return the encoder with an output layer for `num_classes` classes."""
    return use_fast_dropout(SentenceClassifier(encoder, num_classes=num_classes, pooling=config.pooling))


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network of a run with new weights. Raises `UserError` if its configuration is missing or damaged."""
    kept = Path(config.out) / ENCODER
    path = kept if kept.exists() else Path(config.weights) / "config.json"  # of a run that kept none
    return classifier(encoder_from(read_recorded_json(path, SCHEMA), path), config, class_count(config))


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    encoder, tokenizer = from_folder(config.weights, heads=False), WordPiece.load(config.weights)
    check(encoder, tokenizer.vocabulary, config)
    data = data or labelled_splits(config, tokenizer, config.length)
    trainer = FineTuner(
        model=classifier(encoder, config, len(data.names) or 2),
        task=SentenceClassification(padding=tokenizer.padding),
        optimizer=adamw(config.lr, config.weight_decay, fused=True),
        schedule=warmup_linear(0.1),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
