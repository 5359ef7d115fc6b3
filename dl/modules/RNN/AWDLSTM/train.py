"""Train an AWD-LSTM on text. The defaults are the paper's, for a GPU.

python -m dl.modules.RNN.AWDLSTM.train
python -m dl.modules.RNN.AWDLSTM.train --data shakespeare --optimizer adamw --lr 3e-3 --grad-clip 1 --epochs 4
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
    data: str = "wikitext2"
    model: str = flag("awd", "preset of the network, see model.py", choices=PRESETS)
    bptt_length: int = 70
    optimizer: str = "ntasgd"
    ar_alpha: float = 2.0
    tar_beta: float = 1.0
    epochs: int = 750
    batch_size: int = 80
    lr: float = 30.0
    weight_decay: float = 1.2e-6
    grad_clip: float = 0.25


def build_model(config: Config, vocabularies: Mapping[str, Vocabulary]) -> nn.Module:
    """Return the network that the config asks for."""
    return build_for(config, vocabularies, build)


def main(config: Config, data: Splits | None = None) -> History:
    return train(config, build, data)


if __name__ == "__main__":
    launch(main, Config)
