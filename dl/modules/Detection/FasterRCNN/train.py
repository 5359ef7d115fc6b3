"""Train a Faster R-CNN on images with boxes; with masks, where the set has them, a Mask R-CNN.

python -m dl.modules.Detection.FasterRCNN.train
python -m dl.modules.Detection.FasterRCNN.train --data coco:animals --no-masks --out runs/Detection/FasterRCNN-mine
"""

from dataclasses import dataclass

from dl.modules.Detection.FasterRCNN.model import PRESETS, FasterRCNN, build
from dl.modules.Detection.task import Detection
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.boxes.sets import BoxConfig, BoxSet, box_set, box_splits
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(BoxConfig):
    """Train a Faster or Mask R-CNN."""

    out: str = "runs/Detection/FasterRCNN"
    data: str = "penn_fudan"
    size: int = 160
    zoom: float = 0.2
    jitter: float = 0.2
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    masks: bool = flag(True, "draw masks, where the preset and the set have them")
    epochs: int = 80
    batch_size: int = 4
    eval_every: int = 135
    lr: float = 1e-3
    weight_decay: float = 1e-4
    grad_clip: float = flag(10.0, "largest norm of the gradient; 0 = no clipping", alias="clip")


def build_model(config: Config, about: BoxSet | None = None) -> FasterRCNN:
    """Return the network that the config asks for, for images `about`; default: those of the config.

    Norms are never frozen: the weights are not pretrained.
    """
    about = about or box_set(config)
    options = {} if config.masks and about.has_masks else {"mask_channels": 0}
    resnet = PRESETS[config.model]["resnet"] | {"frozen": False}
    return build(config.model, num_classes=len(about.classes), in_channels=about.channels, resnet=resnet, **options)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    about = box_set(config)
    data = data or box_splits(config)
    model = build_model(config, about)
    masks = model.mask_head is not None
    losses = ("objectness_loss", "proposal_loss", "class_loss", "box_loss", *(["mask_loss"] if masks else []))
    optimizer = adamw(config.lr, weight_decay=config.weight_decay)
    return Trainer(model, Detection(about.classes, losses, masks), optimizer, warmup_cosine(0.1), config).fit(data)


if __name__ == "__main__":
    launch(main, Config)
