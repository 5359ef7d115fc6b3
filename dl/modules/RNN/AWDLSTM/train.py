"""Train an AWD-LSTM on text.

python -m dl.modules.RNN.AWDLSTM.train
python -m dl.modules.RNN.AWDLSTM.train --data wikitext2 --model awd --epochs 750 --bptt-length 70 --batch-size 80 \\
    --optimizer ntasgd --lr 30 --grad-clip 0.25 --weight-decay 1.2e-6 --ar-alpha 2 --tar-beta 1

The second is the paper's training, for a GPU.
"""

from dataclasses import dataclass
from typing import Mapping

from torch import nn

from dl.cli import catalogue
from dl.modules.RNN.AWDLSTM.model import PRESETS, build
from dl.modules.RNN.recipe import StreamConfig, build_for, train
from dl.mytorch import History, launch
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, Vocabulary


@dataclass(frozen=True)
class Config(StreamConfig):
    """Train an AWD-LSTM."""

    moved = catalogue.moved_to("RNN/AWDLSTM")

    out: str = "runs/RNN/AWDLSTM"
    model: str = flag("char", "preset of the network, see model.py", choices=PRESETS)
    ar_alpha: float = 0.1
    tar_beta: float = 0.1
    epochs: int = 6


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    return train(config, build, data)


if __name__ == "__main__":
    launch(main, Config)
