"""What the recipes of GPT-2 and Llama share: flags and data. The defaults are nanoGPT's for a CPU."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping

from torch import nn

from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.task import TextModeling
from dl.mytorch import History, TrainConfig, Trainer, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import TextSplits, Vocabulary
from dl.mytorch.files import read_json
from dl.mytorch.layers import use_fast_dropout
from dl.mytorch.optim import MakeOptimizer, Schedule
from dl.mytorch.text.generation import Tokens


@dataclass(frozen=True)
class LanguageConfig(TrainConfig):
    """What a recipe that trains a language model can be told beside."""

    data: str = flag("shakespeare", "shakespeare, shakespeare-sample, wikitext2, or folder:PATH, see dl.modules.GPT.BPE.prepare")
    length: int = flag(64, "tokens of a training example, the most that the model sees at once")
    dropout: float = flag(0.0, "dropout of embeddings, attention and layers")
    warmup: int = flag(100, "steps in which the learning rate rises")
    floor: float = flag(0.1, "the last learning rate, as a share of the highest")
    beta2: float = flag(0.99, "decay of AdamW's mean of squared gradients")
    steps: int = 2000
    batch_size: int = 12
    lr: float = 1e-3
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_every: int = 250
    save_every: int = 250

    def sizes(self) -> dict[str, Any]:
        """What the network is told beside vocabulary, length and dropout."""
        return {}

    @staticmethod
    def read_vocabulary(path: Path) -> Tokens:
        """The tokens that a run keeps: characters, or word pieces."""
        return BPE.read(path) if isinstance(read_json(path), dict) else Vocabulary.load(path)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("length", self.length >= 1, "at least 1")
        self._check("warmup", self.warmup >= 0, "0 or more")
        self._check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        self._check("floor", 0 <= self.floor <= 1, "from 0 to 1")
        self._check("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1")


def build_for(config: LanguageConfig, vocabularies: Mapping[str, Any], build: Callable[..., nn.Module]) -> nn.Module:
    """The network that the config asks for; `build` is that of its model.py."""
    sizes = {"vocab_size": len(vocabularies["tokens"]), "max_length": config.length, "dropout": config.dropout}
    return use_fast_dropout(build(config.model, **sizes, **config.sizes()))


def train(
    config: LanguageConfig,
    build: Callable[..., nn.Module],
    data: TextSplits | None,
    optimizer: MakeOptimizer,
    schedule: Schedule,
    task: Callable[..., TextModeling] = TextModeling,
) -> History:
    """The `main` of a recipe."""
    seed_everything(config.seed)
    data = data or text_splits(config, config.length)
    vocabulary = data.vocabularies["tokens"]
    trainer = Trainer(
        model=build_for(config, data.vocabularies, build),
        task=task(vocabulary, words=config.data == "wikitext2"),
        optimizer=optimizer,
        schedule=schedule,
        config=config,
    )
    return trainer.fit(data)
