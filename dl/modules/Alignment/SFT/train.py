"""Teach a language model to answer by examples: sums, or dialogues of yours.

python -m dl.modules.Alignment.SFT.train
python -m dl.modules.Alignment.SFT.train --until 0 --steps 1000 --out runs/Alignment/SFT-long
python -m dl.modules.Alignment.SFT.train --data chat:dialogues.jsonl --model chat --batch-size 8 --out runs/Alignment/SFT-chat
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import torch
from torch import nn

from dl.cli.runs import Run
from dl.modules.Alignment.recipe import RECIPES, AlignmentConfig, start
from dl.modules.Alignment.SFT import chat
from dl.modules.Alignment.SFT.model import PRESETS, build
from dl.modules.Alignment.SFT.task import SumTuning, Tuning
from dl.modules.Alignment.sums import Sums
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import MakeOptimizer, Schedule, adamw, warmup_cosine
from dl.mytorch.text.generation import generate


@dataclass(frozen=True)
class Config(AlignmentConfig):
    """Teach a language model to answer by examples."""

    out: str = "runs/Alignment/SFT"
    data: str = flag("sums", "sums, whose answers can be checked, or chat:PATH, a .json or .jsonl file of dialogues")
    model: str = flag("sums", "preset of the network, see model.py, without --init-from", choices=PRESETS)
    until: float = flag(
        10.0,
        "stop at the first evaluation with more per cent of the sampled sums right, a start for GRPO; 0 = go on",
    )
    context_length: int = flag(
        0, "tokens of a row into which dialogues are packed; 0 = as many as the network has positions for"
    )
    steps: int = 2000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.1
    eval_every: int = 25
    save_every: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("context_length", self.context_length >= 0, "0 or more")
        self._check("until", 0 <= self.until < 100, "at least 0 and below 100")


def build_model(config: Config, vocabularies: Mapping[str, Any]) -> nn.Module:
    """Return the network of a run, for its weights."""
    return start(config, vocabularies, build, weights=False)


class _Reached(Exception):
    """The last evaluation is good enough."""


class UntilTrainer(Trainer):
    """A training that ends at the first evaluation with more than `config.until` per cent of the sampled answers right."""

    def reached(self) -> bool:
        """Whether an evaluation was good enough; never with `until` 0."""
        best = self.history.best("sampled_error")
        return best is not None and 100 * (1 - best["val"]["sampled_error"]) > self.config.until > 0

    def _loop(self, data: Splits) -> None:
        with contextlib.suppress(_Reached):
            if not self.reached():  # else a run that is over was started again
                super()._loop(data)

    def _record(self, data: Splits) -> None:
        super()._record(data)
        if self.reached():
            self._save(data.train)
            raise _Reached


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    if path := config.data_path("chat:"):
        return train_on_dialogues(config, path)
    if config.data != "sums":
        raise UserError(f"--data {config.data}: there are sums and chat:PATH")
    sums = Sums(config.digits)
    data = data or sums.splits(config.batch_size, config.seed, config.curriculum)
    trainer = UntilTrainer(start(config, data.vocabularies, build), SumTuning(sums, config.eval_samples), *_how(config), config)
    history = trainer.fit(data)
    if history and config.until and not trainer.reached():
        trainer.logger.say(f"no evaluation had more than {config.until:g} % of the sampled answers right")
    return history


def train_on_dialogues(config: Config, path: Path) -> History:
    """Train on a file of dialogues."""
    found = chat.parts(chat.read_dialogues(path), config.seed, path)
    tokens = chat.with_marks(
        Run.open(config.start, *RECIPES).vocabularies["tokens"] if config.start else chat.characters(found[0])
    )
    model = start(config, {"tokens": tokens}, build)
    length = min(config.context_length or model.max_length, model.max_length)
    data = chat.chat_splits(found, tokens, length, config.batch_size, config.seed)

    def answer(model: nn.Module) -> str:
        """The first dialogue that validates, with the likeliest answer."""
        ids = torch.tensor([chat.prompt(tokens, found[1][0])[-length:]], device=next(model.parameters()).device)
        end = chat.mark_id(tokens, chat.END)
        return chat.to_text(tokens, generate(model, ids, max_new_tokens=100, temperature=0, stop=(end,))[0].tolist())

    return Trainer(model, Tuning(answer), *_how(config), config).fit(data)


def _how(config: Config) -> tuple[MakeOptimizer, Schedule]:
    return adamw(config.lr, config.weight_decay, betas=(0.9, 0.95), fused=True), warmup_cosine(50, floor=0.1)


if __name__ == "__main__":
    launch(main, Config)
