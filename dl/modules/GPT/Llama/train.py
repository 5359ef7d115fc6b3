"""Train a Llama on text.

    python -m dl.modules.GPT.Llama.train
    python -m dl.modules.GPT.Llama.train --num-experts 4 --out runs/GPT/Llama-experts
    torchrun --nproc_per_node=2 -m dl.modules.GPT.Llama.train --parallel ddp

These are the 2,000 steps that nanoGPT gives a GPT-2 of this size on a CPU, on characters of Shakespeare.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Mapping

from torch import nn

from dl.modules.GPT.Llama.model import PRESETS, build
from dl.modules.GPT.recipe import LanguageConfig, build_for, train
from dl.modules.GPT.task import BalancedTextModeling
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(LanguageConfig):
    """Train a Llama on text."""

    out: str = "runs/GPT/Llama"
    model: str = flag(
        "char",
        "preset of the network, see model.py; vocabulary, length and dropout are those of the data and the flags",
        choices=PRESETS,
    )
    lr: float = 2e-3  # the best of four, see dl/modules/GPT/README.md
    num_experts: int = flag(0, "number of experts per block; 0 = a dense feed-forward", alias="experts")
    experts_per_token: int = flag(2, "number of experts that process each token")
    aux_loss_weight: float = flag(0.01, "weight of the load-balancing loss", alias="balance")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("num_experts", 0 <= self.num_experts <= 1024, "0 or more and at most 1,024")
        self._check("experts_per_token", 1 <= self.experts_per_token <= (self.num_experts or 2), "from 1 to --num-experts")
        self._check("aux_loss_weight", self.aux_loss_weight >= 0, "0 or more")

    def sizes(self) -> dict[str, Any]:
        return {"num_experts": self.num_experts, "experts_per_token": self.experts_per_token}


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, config.weight_decay, betas=(0.9, config.beta2), fused=True)
    schedule = warmup_cosine(config.warmup, floor=config.min_lr_ratio)
    return train(config, build, data, optimizer, schedule, partial(BalancedTextModeling, weight=config.aux_loss_weight))


if __name__ == "__main__":
    launch(main, Config)
