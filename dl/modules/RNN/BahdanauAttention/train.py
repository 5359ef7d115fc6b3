"""Train a network with attention to translate.

python -m dl.modules.RNN.BahdanauAttention.train
python -m dl.modules.RNN.BahdanauAttention.train --data fra-eng-sample --epochs 20 --batch-size 64 \\
    --out runs/RNN/BahdanauAttention-sample
"""

from dataclasses import dataclass
from typing import Mapping

from torch import nn

from dl.modules.RNN.BahdanauAttention.model import PRESETS, build
from dl.modules.RNN.BahdanauAttention.task import AlignedTranslation
from dl.modules.RNN.translating import RecurrentConfig, build_for, train
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary


@dataclass(frozen=True)
class Config(RecurrentConfig):
    """Train a network with attention to translate."""

    out: str = "runs/RNN/BahdanauAttention"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    return train(config, build, data, AlignedTranslation)


if __name__ == "__main__":
    launch(main, Config)
