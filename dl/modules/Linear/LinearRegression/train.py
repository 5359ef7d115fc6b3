"""Train linear regression on a made-up table.

python -m dl.modules.Linear.LinearRegression.train
python -m dl.modules.Linear.LinearRegression.train --num-features 100 --noise 2 --out runs/Linear/LinearRegression-100
"""

from dataclasses import dataclass
from typing import Literal

from dl.modules.Linear.LinearRegression.data import table
from dl.modules.Linear.LinearRegression.model import build
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import sgd, warmup_cosine
from dl.mytorch.tasks import Regression


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train linear regression."""

    out: str = "runs/Linear/LinearRegression"
    data: Literal["synthetic"] = "synthetic"
    num_examples: int = flag(1000, "rows of the table to learn from; as many validate, as many test")
    num_features: int = flag(10, "columns of the table")
    noise: float = flag(0.5, "standard deviation of what no model can foresee")
    epochs: int = 40
    batch_size: int = 50
    lr: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("num_examples", self.num_examples >= 1, "at least 1")
        self._check("num_features", self.num_features >= 1, "at least 1")
        self._check("noise", self.noise >= 0, "0 or more")


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build(num_features=config.num_features),
        task=Regression(),
        optimizer=sgd(config.lr, weight_decay=config.weight_decay),
        schedule=warmup_cosine(warmup=0.05),
        config=config,
    )
    return trainer.fit(data or table(config.num_examples, config.num_features, config.noise, config.batch_size, config.seed))


if __name__ == "__main__":
    launch(main, Config)
