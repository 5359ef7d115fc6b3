"""Train a simple recurrent network on text.

python -m dl.modules.RNN.RNN.train
python -m dl.modules.RNN.RNN.train --data wikitext2 --model word --out runs/RNN/RNN-wikitext2
"""

from dataclasses import dataclass
from typing import Mapping

from torch import nn

from dl.modules.RNN.recipe import StreamConfig, build_for, train
from dl.modules.RNN.RNN.model import PRESETS, build
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary


@dataclass(frozen=True)
class Config(StreamConfig):
    """Train a simple recurrent network."""

    out: str = "runs/RNN/RNN"
    model: str = flag("char", "preset of the network, see model.py", choices=PRESETS)
    lr: float = 1e-3  # at 3e-3, that of the layers with gates, the state becomes chaotic and validation worse


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    return train(config, build, data)


if __name__ == "__main__":
    launch(main, Config)
