"""Train TextCNN on sentiment classification (SST-2) or on other labelled sentences.

python -m dl.modules.RNN.TextCNN.train
python -m dl.modules.RNN.TextCNN.train --data labelled:mails.csv
"""

from dataclasses import dataclass
from typing import Any, Mapping

import torch
from torch import nn

from dl.modules.RNN.TextCNN.data import Words, word_splits
from dl.modules.RNN.TextCNN.model import PRESETS, TextCNN, build
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.text.labelled import class_count, is_known
from dl.mytorch.optim import MakeOne, Shown, adamw, warmup_linear
from dl.mytorch.text.tasks import SentenceClassification


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train TextCNN."""

    out: str = "runs/RNN/TextCNN"
    data: str = flag(
        "sst2", "name of the data set, or labelled:FILE: own sentences, a .csv or lines with a tab before the label"
    )
    model: str = flag("rand", "preset of the network, see model.py", choices=PRESETS)
    length: int = flag(64, "words of a sentence; longer ones are cut")
    min_count: int = flag(2, "words that are rarer in the training sentences become <unk>")
    max_norm: float = flag(3.0, "largest norm of a row of the output layer, set after each step; 0 = none")
    epochs: int = 3
    batch_size: int = 50
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("data", is_known(self.data), "sst2, or labelled:FILE")
        for name in ("length", "min_count"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check("max_norm", self.max_norm >= 0, "0 or more")


def bounded(make: MakeOne, max_norm: float) -> MakeOne:
    """Return the optimizer, and after each of its steps the rows of the output layer cut to `max_norm` (section 2.1)."""

    def optimizer(model: TextCNN) -> torch.optim.Optimizer:
        def cut(*_: Any) -> None:
            weight = model.output.weight.data
            norms = weight.norm(dim=1, keepdim=True)
            weight.mul_(max_norm / norms.clamp(min=max_norm))  # not renorm, which knows no shards (--parallel fsdp)

        made = make(model)
        made.register_step_post_hook(cut)
        return made

    return Shown(optimizer, f"bounded({make!r}, {max_norm})") if max_norm else make


def build_model(config: Config, vocabularies: Mapping[str, Any], num_classes: int = 0) -> nn.Module:
    """Return the network that the config asks for. num_classes: default those of the run in `config.out`."""
    return build(config.model, vocab_size=len(vocabularies["tokens"]), num_classes=num_classes or class_count(config))


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    data = data or word_splits(config, config.length, config.min_count)
    trainer = Trainer(
        model=build_model(config, data.vocabularies, len(data.names) or 2),
        task=SentenceClassification(Words.padding),
        optimizer=bounded(adamw(config.lr, config.weight_decay, fused=True), config.max_norm),
        schedule=warmup_linear(0.02),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
