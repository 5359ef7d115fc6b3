"""Train a graph isomorphism network on MUTAG or PROTEINS.

    python -m dl.modules.Graph.GIN.train
    python -m dl.modules.Graph.GIN.train --seed 3 --out runs/Graph/GIN-3
    python -m dl.modules.Graph.GIN.train --data proteins --epochs 20 --eval-every 28 --out runs/Graph/GIN-proteins

Of ten folds one tests, the next one validates and chooses the checkpoint, by the least loss; the other eight train. Which one
tests is `--fold`, or else the last digit of `--seed`, so that ten seeds test each graph once. The paper has no validation fold:
it chooses the epoch by the mean error on the folds that test, see README.md.
"""

from dataclasses import dataclass

from dl.modules.Graph.GIN.model import GIN, PRESETS, build
from dl.modules.Graph.task import GraphClassification
from dl.mytorch import History, TrainConfig, Trainer, launch, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.data.graphs.tu import FOLDS, SHAPES, graph_splits
from dl.mytorch.optim import Schedule, Shown, adamw


@dataclass(frozen=True)
class Config(TrainConfig):
    """Train GIN."""

    out: str = "runs/Graph/GIN"
    data: str = flag("mutag", "set of graphs", choices=SHAPES)
    model: str = flag("gin", "preset of the network, see model.py", choices=PRESETS)
    fold: int = flag(-1, "the fold that tests, from 0 to 9; -1: the last digit of the seed")
    epochs: int = 200
    batch_size: int = 32
    lr: float = 0.01
    eval_every: int = 25
    save_every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("fold", -1 <= self.fold < FOLDS, f"from 0 to {FOLDS - 1}, or -1")

    @property
    def tested(self) -> int:
        """The fold that tests."""
        return self.seed % FOLDS if self.fold < 0 else self.fold


def halved(times: int = 7) -> Schedule:
    """Return the schedule of the paper: half the rate `times` times, after equal parts (there every 50 of 350 epochs)."""
    return Shown(lambda step, total: 0.5 ** (step * times // max(1, total)), f"halved({times})")


def build_model(config: Config) -> GIN:
    """Return the network that the config asks for."""
    num_features, num_classes = SHAPES[config.data]
    return build(config.model, num_features=num_features, num_classes=num_classes)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    trainer = Trainer(
        model=build_model(config),
        task=GraphClassification(),
        optimizer=adamw(config.lr, config.weight_decay),
        schedule=halved(),
        config=config,
    )
    return trainer.fit(data or graph_splits(config, config.tested))


if __name__ == "__main__":
    launch(main, Config)
