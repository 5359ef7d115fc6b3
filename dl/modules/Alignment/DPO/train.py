"""Tune a language model on preferences: on right and wrong sums that it drew itself, or on pairs of yours.

python -m dl.modules.Alignment.SFT.train
python -m dl.modules.Alignment.DPO.train --init-from runs/Alignment/SFT
python -m dl.modules.Alignment.DPO.train --loss kto --out runs/Alignment/DPO-kto
"""

from dataclasses import dataclass
from typing import Any, Mapping

from torch import nn

from dl.modules.Alignment.DPO.data import FILE, PairConfig, PairSplits, pair_splits
from dl.modules.Alignment.DPO.model import build
from dl.modules.Alignment.DPO.pairs import write_pairs
from dl.modules.Alignment.DPO.task import Preferences, SumPreferences
from dl.modules.Alignment.recipe import start
from dl.modules.Alignment.sums import Sums
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits
from dl.mytorch.distributed import is_main
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(PairConfig):
    """Tune a language model on preferences."""

    out: str = "runs/Alignment/DPO"
    beta: float = flag(1.0, "how much the policy holds to the reference; ipo: tau; orpo: weight of the odds ratio")
    epochs: int = 3
    batch_size: int = 128
    lr: float = 1e-3
    eval_every: int = 100
    save_every: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta", self.beta > 0, "above 0")
        if self.loss == "kto" and self.accumulate > 1:
            raise UserError("--accumulate is for losses of single pairs; kto's reference point is that of one forward pass")


class PairTrainer(Trainer):
    """A trainer that keeps drawn pairs in the run's folder, from which a resumed run takes them."""

    def open_folder(self, data: Splits) -> None:
        super().open_folder(data)
        drawn = data.pairs if isinstance(data, PairSplits) else ()
        if drawn and is_main() and not (self.out / "last.pt").exists():
            write_pairs(drawn, self.out / FILE)


def build_model(config: Config, vocabularies: Mapping[str, Any]) -> nn.Module:
    """Return the network of `config.init_from` with new weights, and adapters if the config asks for them."""
    return start(config, vocabularies, build, weights=False)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    data = data or pair_splits(config)
    known = data.train.dataset["reference_chosen"].double().mean().item()
    options = {"loss": config.loss, "beta": config.beta, "held_out": data.val, "reference": known}
    sums = Sums(config.digits) if config.data == "sums" else None
    trainer = PairTrainer(
        model=start(config, data.vocabularies, build),
        task=SumPreferences(sums, config.eval_samples, **options) if sums else Preferences(**options),
        optimizer=adamw(config.lr, config.weight_decay, betas=(0.9, 0.95), fused=True),
        schedule=warmup_cosine(0.1, floor=0.1),
        config=config,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
