"""Train an encoder without labels: SimCLR. The labels of the images only measure it.

python -m dl.modules.SelfSupervised.SimCLR.train
python -m dl.modules.SelfSupervised.SimCLR.train --data folder:images --image-size 64 --out runs/SelfSupervised/SimCLR-mine
python -m dl.modules.SelfSupervised.SimCLR.train --model resnet18 --epochs 200 --batch-size 512 --out runs/SimCLR-18
"""

from dataclasses import dataclass

from dl.modules.SelfSupervised.SimCLR.model import PRESETS, SimCLR, build
from dl.modules.SelfSupervised.SimCLR.task import Contrastive
from dl.modules.SelfSupervised.views import ViewsConfig, bank, make_view, two_views, view_splits
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits, image_set
from dl.mytorch.optim import sgd, warmup_cosine


@dataclass(frozen=True)
class Config(ViewsConfig):
    """Train an encoder by SimCLR."""

    out: str = "runs/SelfSupervised/SimCLR"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 30
    batch_size: int = 256
    lr: float = 0.4
    weight_decay: float = 1e-4
    eval_every: int = 880  # five epochs: each evaluation encodes the training set
    channels_last: bool = True
    temperature: float = flag(0.2, "temperature of the loss: small = the nearest of the other views count most")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("temperature", 1e-3 <= self.temperature <= 100, "from 0.001 to 100")
        self._check("accumulate", self.accumulate == 1, "1: the loss compares all images of a step, which are one forward's")


def build_model(config: Config) -> SimCLR:
    """Return the network that the config asks for."""
    about = image_set(config)
    return build(config.model, in_channels=about.channels, small=about.small)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model, view, plain = build_model(config), make_view(config), image_set(config).standard
    data = view_splits(config, two_views(view), two_views(view, plain), data)
    trainer = Trainer(
        model=model,
        task=Contrastive(config.temperature, bank(config, data), model.dim, channels_last=config.channels_last),
        optimizer=sgd(config.lr, momentum=0.9, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.1),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
