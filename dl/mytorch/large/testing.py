"""What the tests of training block by block share."""

from pathlib import Path

from torch import Tensor, nn

from dl.mytorch import History, TrainConfig, Trainer, layers, seed_everything
from dl.mytorch.data import Loader, Splits, synthetic
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification


class Convolutions(nn.Module):
    """Three blocks, of which the last two give maps of one shape; with running statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 7, stride=7)
        self.blocks = nn.ModuleList(
            layers.sequential(conv=nn.Conv2d(i, o, 3, padding=1), norm=nn.BatchNorm2d(o), act=nn.ReLU(), drop=nn.Dropout(0.2))
            for i, o in ((4, 4), (4, 6), (6, 6))
        )
        self.head = nn.Linear(6, 10)

    def before_blocks(self, images: Tensor) -> Tensor:
        return self.stem(images)

    def after_blocks(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        x = self.before_blocks(images)
        for block in self.blocks:
            x = block(x)
        return self.after_blocks(x)


def data() -> Splits:
    return Splits(*(Loader(synthetic.images(n, seed=n), 8, shuffle=n == 40) for n in (40, 17, 19)))


def config(tmp_path: Path, layerwise: str, **flags: object) -> TrainConfig:
    return TrainConfig(
        str(tmp_path / layerwise), "synthetic", device="cpu", batch_size=8, layerwise=layerwise, plots=False, **flags
    )


def train(config: TrainConfig, data: Splits) -> History:
    seed_everything(config.seed)
    return Trainer(Convolutions(), Classification(), sgd(0.05, momentum=0.9), constant(), config).fit(data)
