"""Train a DETR on images with boxes; the detections with most mistakes are a figure of the run.

python -m dl.modules.Detection.DETR.train
python -m dl.modules.Detection.DETR.train --epochs 100 --out runs/Detection/DETR-long
"""

from dataclasses import dataclass

import torch
from torch import nn

from dl.modules.Detection.DETR.model import DETR, PRESETS, build
from dl.modules.Detection.task import Detection
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.boxes.sets import BoxConfig, BoxSet, box_set, box_splits
from dl.mytorch.optim import MakeOne, decay_groups, shown, warmup_cosine


@dataclass(frozen=True)
class Config(BoxConfig):
    """Train a DETR."""

    out: str = "runs/Detection/DETR"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 20
    batch_size: int = 8
    lr: float = 3e-4
    weight_decay: float = 1e-4
    grad_clip: float = 0.1
    channels_last: bool = True
    backbone_lr: float = flag(1.0, "learning rate of the backbone, in parts of --lr; the paper's, which is pretrained, has 0.1")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("backbone_lr", 0 < self.backbone_lr <= 1, "above 0 and at most 1")


def build_model(config: Config, about: BoxSet | None = None) -> DETR:
    """Return the network that the config asks for, for images `about`; default: those of the config."""
    about = about or box_set(config)
    backbone = PRESETS[config.model]["backbone"] | {"frozen": False}  # frozen norms are for pretrained weights
    return build(config.model, in_channels=about.channels, num_classes=len(about.classes), backbone=backbone)


@shown
def detr_adamw(lr: float, backbone_lr: float, weight_decay: float) -> MakeOne:
    """AdamW (appendix A.4) with a lower rate for the backbone, `backbone_lr` parts of `lr`."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        backbone = set(model.backbone.parameters())
        groups = []
        for group in decay_groups(model, weight_decay):
            for inside, rate in ((False, lr), (True, lr * backbone_lr)):
                groups.append({**group, "params": [p for p in group["params"] if (p in backbone) == inside], "lr": rate})
        return torch.optim.AdamW(groups, lr=lr)

    return make


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about = box_set(config)
    optimizer = detr_adamw(config.lr, config.backbone_lr, config.weight_decay)
    task = Detection(about.classes, losses=("class", "l1", "giou"))
    trainer = Trainer(build_model(config, about), task, optimizer, warmup_cosine(200), config)
    return trainer.fit(data or box_splits(config))


if __name__ == "__main__":
    launch(main, Config)
