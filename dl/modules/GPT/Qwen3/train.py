"""Train a Qwen3 on text.

    python -m dl.modules.GPT.Qwen3.train
    python -m dl.modules.GPT.Qwen3.train --model char_experts --out runs/GPT/Qwen3-experts
    python -m dl.modules.GPT.Qwen3.train --window 16 --full-every 4 --out runs/GPT/Qwen3-window

These are the 2,000 steps that nanoGPT gives a GPT-2 of this size on a CPU, on characters of Shakespeare.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Mapping

from torch import nn

from dl.modules.GPT.Qwen3.model import PRESETS, build
from dl.modules.GPT.recipe import LanguageConfig, build_for, train
from dl.modules.GPT.task import BalancedTextModeling
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(LanguageConfig):
    """Train a Qwen3 on text."""

    out: str = "runs/GPT/Qwen3"
    model: str = flag(
        "char",
        "preset of the network, see model.py; vocabulary, length and dropout are those of the data and the flags",
        choices=PRESETS,
    )
    window: int = flag(0, "tokens that a token attends to, the last ones; 0 = all")
    full_every: int = flag(0, "with a window: every so many blocks one attends to all; 0 = none does")
    sinks: bool = flag(False, "a learnt logit for each head that takes attention and gives nothing")
    aux_loss_weight: float = flag(0.001, "weight of the load-balancing loss of a mixture of experts")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("window", self.window >= 0, "0 or more")
        self._check("full_every", self.full_every >= 0, "0 or more")
        self._check("aux_loss_weight", self.aux_loss_weight >= 0, "0 or more")

    def sizes(self) -> dict[str, Any]:
        return {"window": self.window or None, "full_every": self.full_every, "sinks": self.sinks}


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, config.weight_decay, betas=(0.9, config.beta2), fused=True)
    schedule = warmup_cosine(config.warmup, floor=config.min_lr_ratio)
    return train(config, build, data, optimizer, schedule, partial(BalancedTextModeling, weight=config.aux_loss_weight))


if __name__ == "__main__":
    launch(main, Config)
