"""Train a Mamba on text.

    python -m dl.modules.StateSpace.Mamba.train
    python -m dl.modules.StateSpace.Mamba.train --context-length 256 --out runs/StateSpace/Mamba-256

These are the 2,000 steps that nanoGPT gives a GPT-2 of this size on a CPU, on characters of Shakespeare.
"""

from dataclasses import dataclass
from typing import Any, Mapping

from torch import nn

from dl.modules.GPT.recipe import LanguageConfig, build_for, train
from dl.modules.StateSpace.Mamba.model import ENDLESS, PRESETS, build
from dl.mytorch import History, launch
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(LanguageConfig):
    """Train a Mamba on text."""

    out: str = "runs/StateSpace/Mamba"
    model: str = flag(
        "char",
        "preset of the network, see model.py; vocabulary and dropout are those of the data and the flags",
        choices=PRESETS,
    )
    lr: float = 3e-3  # the best of those tried, see dl/modules/GPT/README.md
    context_length: int = flag(64, "tokens of a training example; generation has no end", alias="length")
    chunk: int = flag(0, "tokens of a chunk of the scan, chunks are computed side by side; 0 = one, the fastest on a CPU")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("chunk", self.chunk >= 0, "0 or more")
        if self.lora_rank:
            raise UserError("--lora-rank adapts attention layers, of which a Mamba has none")

    def sizes(self) -> dict[str, Any]:
        return {"max_length": ENDLESS, "chunk": self.chunk}


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, config.weight_decay, betas=(0.9, config.beta2), fused=True)
    return train(config, build, data, optimizer, warmup_cosine(config.warmup, floor=config.min_lr_ratio))


if __name__ == "__main__":
    launch(main, Config)
