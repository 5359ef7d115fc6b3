"""What the recipes of language models share: flags and data. The defaults are nanoGPT's for a CPU."""

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any, Callable, Mapping

from torch import nn

from dl.cli.runs import Run, resumes
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.lora import adapt, merge
from dl.modules.GPT.task import TextModeling
from dl.mytorch import History, TrainConfig, Trainer, seed_everything
from dl.mytorch.checkpoint import put_weights
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.files import read_json
from dl.mytorch.layers import use_fast_dropout
from dl.mytorch.optim import MakeOptimizer, Schedule
from dl.mytorch.text.generation import Tokens


@dataclass(frozen=True)
class LanguageConfig(TrainConfig):
    """What a recipe that trains a language model can be told beside."""

    data: str = flag(
        "shakespeare", "shakespeare, shakespeare-sample, wikitext2, or folder:PATH, see dl.modules.GPT.BPE.prepare"
    )
    context_length: int = flag(64, "tokens of a training example, the most that the model sees at once", alias="length")
    dropout: float = flag(0.0, "dropout of embeddings, attention and layers")
    warmup: int = flag(100, "steps in which the learning rate rises")
    min_lr_ratio: float = flag(0.1, "the last learning rate, as a share of the highest", alias="floor")
    beta2: float = flag(0.99, "decay of AdamW's mean of squared gradients")
    init_from: str = flag("", "run to fine-tune: its best weights are the first ones; its tokens have to be those of --data")
    lora_rank: int = flag(0, "fine-tune by adapters of this rank in the attention layers, all else frozen; 0 = all weights")
    steps: int = 2000
    batch_size: int = 12
    lr: float = 1e-3
    weight_decay: float = 0.1
    grad_clip: float = 1.0
    eval_every: int = 250
    save_every: int = 250

    def sizes(self) -> dict[str, Any]:
        """Return the arguments of the network beside vocabulary, length and dropout, or in place of these."""
        return {}

    @staticmethod
    def read_vocabulary(path: Path) -> Tokens:
        """Return the tokens that a run keeps: characters, or word pieces."""
        return BPE.read(path) if isinstance(read_json(path), dict) else Vocabulary.load(path)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "init_from", expanduser(self.init_from))
        self._check("context_length", self.context_length >= 1, "at least 1")
        self._check("warmup", self.warmup >= 0, "0 or more")
        self._check("dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        self._check("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "from 0 to 1")
        self._check("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1")
        self._check("lora_rank", self.lora_rank >= 0, "0 or more")
        if self.lora_rank and self.layerwise != "none":
            raise UserError("--lora-rank trains all blocks at once, without --layerwise")


def build_for(
    config: LanguageConfig, vocabularies: Mapping[str, Any], build: Callable[..., nn.Module], start: Run | None = None
) -> nn.Module:
    """Return the network that the config asks for; `build` is that of its model.py.

    `start`: the run whose weights it has at first.
    """
    sizes = {"vocab_size": len(vocabularies["tokens"]), "max_length": config.context_length, "dropout": config.dropout}
    model = use_fast_dropout(build(config.model, **(sizes | config.sizes())))
    if start is not None:
        put_weights(model, merge(start.model()).state_dict(), start.path / "best.pt")
    return adapt(model, config.lora_rank) if config.lora_rank else model


def run_to_tune(path: str, tokens: Tokens) -> Run:
    """Return the run in the folder `path`. Raises `UserError` if there is none, or if its tokens are others than `tokens`."""
    run = Run.open(path, "GPT/GPT2", "GPT/Llama", "GPT/Qwen3", "GPT/DeepSeekV3", "StateSpace/Mamba")
    if run.vocabularies["tokens"] != tokens:
        line = "`python -m dl.modules.GPT.BPE.prepare --bpe` writes other texts in the word pieces of a folder"
        raise UserError(f"--init-from {path} has other tokens than --data; {line}")
    return run


def train(
    config: LanguageConfig,
    build: Callable[..., nn.Module],
    data: Splits | None,
    optimizer: MakeOptimizer,
    schedule: Schedule,
    task: Callable[..., TextModeling] = TextModeling,
    make_trainer: Callable[..., Trainer] = Trainer,
) -> History:
    """Train as the config says, and return the history: the `main` of a recipe."""
    seed_everything(config.seed)
    data = data or text_splits(config, config.context_length)
    vocabulary = data.vocabularies["tokens"]
    start = run_to_tune(config.init_from, vocabulary) if config.init_from and not resumes(config) else None
    trainer = make_trainer(
        model=build_for(config, data.vocabularies, build, start),
        task=task(vocabulary, per="words" if config.data == "wikitext2" else "bytes" if config.data_path("folder:") else ""),
        optimizer=optimizer,
        schedule=schedule,
        config=config,
    )
    return trainer.fit(data)
