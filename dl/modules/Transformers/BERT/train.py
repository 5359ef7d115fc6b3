"""Pre-train a BERT on WikiText-2.

    python -m dl.modules.Transformers.BERT.train
    python -m dl.modules.Transformers.BERT.train --no-nsp --out runs/Transformers/BERT-mlm
    torchrun --nproc_per_node=2 -m dl.modules.Transformers.BERT.train --parallel ddp

The 50 steps of the book "Dive into Deep Learning" (section 15.10), with the rate of 1e-4:

    python -m dl.modules.Transformers.BERT.train --model d2l --steps 50 --batch-size 512 --lr 1e-4 --schedule constant \\
        --weight-decay 0 --precision fp32 --out runs/Transformers/BERT-d2l
"""

from dataclasses import dataclass
from typing import Literal, Mapping

from dl.modules.Transformers.BERT.data import wikitext2_pairs
from dl.modules.Transformers.BERT.model import BERT, PRESETS, build
from dl.modules.Transformers.BERT.task import PreTraining
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.data.text.vocabulary import PADDING
from dl.mytorch.layers import use_fast_dropout
from dl.mytorch.optim import adamw, constant, warmup_linear


@dataclass(frozen=True)
class Config(TrainConfig):
    """Pre-train a BERT."""

    out: str = "runs/Transformers/BERT"
    data: Literal["wikitext2"] = flag("wikitext2", "name of the data set")
    model: str = flag("d2l", "preset, see model.py", choices=PRESETS)
    length: int = flag(64, "tokens of a pair of sentences, with <cls> and <sep>; longer pairs are cut")
    min_count: int = flag(5, "words that are rarer in the training text are <unk>")
    spans: bool = flag(False, "as the paper: a sentence is as many in a row as fill half the length")
    mlm: bool = flag(True, "learn to predict masked tokens")
    nsp: bool = flag(True, "learn whether the second sentence follows the first")
    schedule: Literal["linear", "constant"] = flag("linear", "of the learning rate; linear: up for 1 % of the steps, then down")
    epochs: int = 10
    lr: float = 1e-3
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("mlm", self.mlm or self.nsp, "on when --no-nsp turns the other objective off")
        self._check("length", self.length >= 5, "at least 5")
        most = PRESETS[self.model].get("max_length", 512)
        self._check("length", self.length <= most, f"at most {most}, the positions of {self.model}")


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> BERT:
    """Return the network that the config asks for, with the heads of the objectives that are on."""
    return use_fast_dropout(build(config.model, vocab_size=len(vocabularies["tokens"]), mlm=config.mlm, nsp=config.nsp))


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    data = data or wikitext2_pairs(config, config.length, config.min_count, config.spans)
    vocabulary = data.vocabularies["tokens"]
    trainer = Trainer(
        model=build_model(config, data.vocabularies),
        task=PreTraining(config.mlm, config.nsp, padding=vocabulary[PADDING]),
        optimizer=adamw(config.lr, config.weight_decay, fused=True),
        schedule=warmup_linear(0.01) if config.schedule == "linear" else constant(),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
