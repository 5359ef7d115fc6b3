"""Train a Llama on text.

    python -m dl.modules.GPT.Llama.train
    torchrun --nproc_per_node=2 -m dl.modules.GPT.Llama.train --parallel ddp

These are the 2,000 steps that nanoGPT gives a GPT-2 of this size on a CPU, on characters of Shakespeare.
"""

from dataclasses import dataclass
from typing import Literal

from dl.modules.GPT.Llama.model import build
from dl.modules.GPT.recipe import LanguageConfig, train
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import TextSplits


@dataclass(frozen=True)
class Config(LanguageConfig):
    """Train a Llama on text."""

    out: str = "runs/GPT/Llama"
    model: Literal[
        "char", "stories260k", "llama_7b", "llama_13b", "llama_33b", "llama_65b", "llama2_70b", "llama3_8b", "tiny"
    ] = flag("char", "preset of the network, see model.py; vocabulary, length and dropout are those of the data and the flags")


def main(config: Config, data: TextSplits | None = None) -> History:
    return train(config, build, data)


if __name__ == "__main__":
    launch(main, Config)
