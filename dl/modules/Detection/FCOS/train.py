"""Train an FCOS on images with boxes.

python -m dl.modules.Detection.FCOS.train
python -m dl.modules.Detection.FCOS.train --data voc:cells --out runs/Detection/FCOS-mine
"""

from dataclasses import dataclass

from dl.modules.Detection.FCOS.model import FCOS, PRESETS, build
from dl.modules.Detection.task import Detection
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.boxes.sets import BoxConfig, BoxSet, box_set, box_splits
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(BoxConfig):
    """Train an FCOS."""

    out: str = "runs/Detection/FCOS"
    data: str = "bccd"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 50
    batch_size: int = 8
    lr: float = 1e-3
    weight_decay: float = 1e-2
    size: int = 240
    vflip: bool = True
    turns: bool = True
    zoom: float = 0.3
    jitter: float = 0.2
    eval_every: int = 260
    channels_last: bool = True


def build_model(config: Config, about: BoxSet | None = None) -> FCOS:
    """Return the network that the config asks for, for images `about`; default: those of the config.

    Norms are never frozen: the weights are not pretrained.
    """
    about = about or box_set(config)
    backbone = PRESETS[config.model]["backbone"] | {"frozen": False}
    return build(config.model, in_channels=about.channels, num_classes=len(about.classes), backbone=backbone)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about = box_set(config)
    data = data or box_splits(config)
    model = build_model(config, about)
    optimizer = adamw(config.lr, weight_decay=config.weight_decay)
    task = Detection(about.classes, losses=("class_loss", "box_loss", "centreness_loss"), unit="location")
    return Trainer(model, task, optimizer, warmup_cosine(0.05), config).fit(data)


if __name__ == "__main__":
    launch(main, Config)
