"""Learn word vectors.

python -m dl.modules.RNN.Word2Vec.train
python -m dl.modules.RNN.Word2Vec.train --data shakespeare-sample --objective cbow --out runs/RNN/Word2Vec-sample
"""

from dataclasses import dataclass
from typing import Any, Literal, Mapping

from torch import nn

from dl.modules.RNN.Word2Vec.data import window_splits
from dl.modules.RNN.Word2Vec.model import PRESETS, build
from dl.modules.RNN.Word2Vec.task import NegativeSampling
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import adamw, warmup_linear


@dataclass(frozen=True)
class Config(TrainConfig):
    """Learn word vectors."""

    out: str = "runs/RNN/Word2Vec"
    data: Literal["wikitext2", "shakespeare", "shakespeare-sample"] = flag("wikitext2", "the text")
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    objective: Literal["skipgram", "cbow"] = flag("skipgram", "predict a word from one word near it, or from the mean of all")
    window: int = flag(5, "words to either side, at most")
    negatives: int = flag(5, "words drawn for each true one; the paper: 5 to 20 for small sets")
    min_count: int = flag(5, "words that are rarer in the training text are left out")
    threshold: float = flag(1e-4, "words more frequent than this are subsampled; the paper: 1e-5, for large sets; 0 = none")
    epochs: int = 4
    batch_size: int = 1024
    lr: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window", "negatives"):  # each takes the memory of a batch
            self._check(name, 1 <= getattr(self, name) <= 1000, "at least 1 and at most 1,000")
        self._check("min_count", self.min_count >= 1, "at least 1")
        self._check("threshold", self.threshold >= 0, "0 or more")


def build_model(config: Config, vocabularies: Mapping[str, Any]) -> nn.Module:
    """Return the network that the config asks for."""
    return build(config.model, vocab_size=len(vocabularies["tokens"]))


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    drawing = (config.objective, config.window, config.negatives, config.min_count, config.threshold)
    data = data or window_splits(config, *drawing)
    vocabulary = data.vocabularies["tokens"]
    trainer = Trainer(
        model=build_model(config, data.vocabularies),
        task=NegativeSampling(vocabulary),
        optimizer=adamw(config.lr, config.weight_decay, fused=True),
        schedule=warmup_linear(0.02),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
