"""Train an encoder without labels: DINO. The labels of the images only measure it.

python -m dl.modules.SelfSupervised.DINO.train
python -m dl.modules.SelfSupervised.DINO.train --data folder:images --image-size 64 --out runs/SelfSupervised/DINO-mine
"""

import math
from dataclasses import dataclass

from dl.modules.SelfSupervised.DINO.model import DINO, PRESETS, build
from dl.modules.SelfSupervised.DINO.task import Distillation, DistillationStep
from dl.modules.SelfSupervised.views import ViewsConfig, bank, make_view, two_views, view_splits
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits, image_set
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(ViewsConfig):
    """Train an encoder by DINO."""

    out: str = "runs/SelfSupervised/DINO"
    model: str = flag("small", "preset of the network, see model.py", choices=PRESETS)
    epochs: int = 12
    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.04
    grad_clip: float = 3.0
    eval_every: int = 704  # two epochs: each evaluation encodes the training set
    min_scale: float = 0.2
    ema: float = flag(0.97, "momentum of the teacher in the first step; it rises to 1, by a cosine")
    temperature: float = flag(0.03, "temperature of the teacher: low = it is sure of what it says")
    warm_temperature: float = flag(0.03, "the same in the first step")
    temperature_warmup: float = flag(0.1, "share of the steps in which the temperature goes from the one to the other")
    freeze: float = flag(0.02, "share of the steps, at first, in which the last layer of the head does not learn")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("ema", self.ema > 0, "above 0: the average of the weights is the teacher")
        for name in ("temperature", "warm_temperature"):
            self._check(name, 1e-3 <= getattr(self, name) <= 100, "from 0.001 to 100")
        for name in ("temperature_warmup", "freeze"):
            self._check(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")


def build_model(config: Config) -> DINO:
    """Return the network that the config asks for. Raises `UserError` when it does not fit the images."""
    about = image_set(config)
    try:
        return build(config.model, image_size=about.size, in_channels=about.channels)
    except ValueError as error:
        raise UserError(f"--model {config.model} does not fit --data {config.data}: {error}") from None


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    model, view, plain = build_model(config), make_view(config), image_set(config).standard
    data = view_splits(config, two_views(view), two_views(view, plain), data)
    total_steps = config.steps or config.epochs * math.ceil(len(data.train) / config.accumulate)
    trainer = Trainer(
        model=model,
        task=Distillation(config.temperature, total_steps, bank(config, data), model.num_outputs),
        optimizer=adamw(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.1),
        config=config,
        step=DistillationStep,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
