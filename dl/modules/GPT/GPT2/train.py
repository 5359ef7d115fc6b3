"""Train a GPT-2 on text.

    python -m dl.modules.GPT.GPT2.train
    torchrun --nproc_per_node=2 -m dl.modules.GPT.GPT2.train --parallel ddp

These are nanoGPT's 2,000 steps for a CPU on characters of Shakespeare. Its 5,000 steps for a GPU:

    python -m dl.modules.GPT.GPT2.train --model char_gpu --context-length 256 --batch-size 64 --steps 5000 --dropout 0.2 \\
        --precision bf16 --out runs/GPT/GPT2-gpu
"""

from dataclasses import dataclass
from typing import Mapping

from torch import nn

from dl.modules.GPT.GPT2.model import PRESETS, build
from dl.modules.GPT.recipe import LanguageConfig, build_for, train
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(LanguageConfig):
    """Train a GPT-2 on text."""

    out: str = "runs/GPT/GPT2"
    model: str = flag(
        "char",
        "preset of the network, see model.py; vocabulary, length and dropout are those of the data and the flags",
        choices=PRESETS,
    )


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    optimizer = adamw(config.lr, config.weight_decay, betas=(0.9, config.beta2), fused=True)
    schedule = warmup_cosine(config.warmup, floor=config.min_lr_ratio)
    return train(config, build, data, optimizer, schedule)


if __name__ == "__main__":
    launch(main, Config)
