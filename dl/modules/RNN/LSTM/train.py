"""Train an LSTM on text.

python -m dl.modules.RNN.LSTM.train
python -m dl.modules.RNN.LSTM.train --data wikitext2 --model word --out runs/RNN/LSTM-wikitext2
"""

import sys
from dataclasses import dataclass
from typing import Mapping

from torch import nn

from dl.cli import catalogue
from dl.modules.RNN.LSTM.model import PRESETS, build
from dl.modules.RNN.recipe import StreamConfig, build_for, train
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary


@dataclass(frozen=True)
class Config(StreamConfig):
    """Train an LSTM."""

    out: str = "runs/RNN/LSTM"
    model: str = flag("char", "preset of the network, see model.py", choices=PRESETS)


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    return train(config, build, data)


if __name__ == "__main__":
    if not catalogue.hand_over("RNN/LSTM", Config, sys.argv[1:]):  # `--model awd` of earlier versions
        launch(main, Config)
