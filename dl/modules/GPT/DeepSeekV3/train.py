"""Train a DeepSeek-V3 on text.

    python -m dl.modules.GPT.DeepSeekV3.train
    python -m dl.modules.GPT.DeepSeekV3.train --bias-update-speed 0 --aux-loss-weight 0 --out runs/GPT/DeepSeekV3-unbalanced

These are the 2,000 steps that nanoGPT gives a GPT-2 of this size on a CPU, on characters of Shakespeare.
"""

from dataclasses import dataclass
from functools import partial
from typing import Mapping

from torch import nn

from dl.modules.GPT.DeepSeekV3.balance import BalancingTrainer
from dl.modules.GPT.DeepSeekV3.model import PRESETS, build
from dl.modules.GPT.recipe import LanguageConfig, build_for, train
from dl.modules.GPT.task import BalancedTextModeling
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(LanguageConfig):
    """Train a DeepSeek-V3 on text."""

    out: str = "runs/GPT/DeepSeekV3"
    model: str = flag(
        "char",
        "preset of the network, see model.py; vocabulary, length and dropout are those of the data and the flags",
        choices=PRESETS,
    )
    lr: float = 2e-3  # the best of those tried, see dl/modules/GPT/README.md
    bias_update_speed: float = flag(0.001, "by how much the bias of an expert moves in a step, towards equal loads")
    aux_loss_weight: float = flag(0.0001, "weight of the sequence-wise balance loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("bias_update_speed", self.bias_update_speed >= 0, "0 or more")
        self._check("aux_loss_weight", self.aux_loss_weight >= 0, "0 or more")


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, config.weight_decay, betas=(0.9, config.beta2), fused=True)
    schedule = warmup_cosine(config.warmup, floor=config.min_lr_ratio)
    task = partial(BalancedTextModeling, weight=config.aux_loss_weight)
    return train(config, build, data, optimizer, schedule, task, BalancingTrainer)


if __name__ == "__main__":
    launch(main, Config)
