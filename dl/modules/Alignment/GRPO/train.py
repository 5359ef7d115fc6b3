"""Let a language model that is sometimes right learn from its own answers, which a verifier judges.

python -m dl.modules.Alignment.SFT.train
python -m dl.modules.Alignment.GRPO.train
python -m dl.modules.Alignment.GRPO.train --loss dr_grpo --out runs/Alignment/GRPO-dr
"""

import copy
from dataclasses import dataclass
from typing import Any, Mapping

from torch import nn

from dl.modules.Alignment.GRPO.losses import LOSSES
from dl.modules.Alignment.GRPO.model import PRESETS, build
from dl.modules.Alignment.GRPO.step import GRPOStep
from dl.modules.Alignment.GRPO.task import GRPO
from dl.modules.Alignment.recipe import AlignmentConfig, frozen, start
from dl.modules.Alignment.sums import Sums
from dl.mytorch import History, Trainer, launch, seed_everything
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Splits
from dl.mytorch.distributed import device
from dl.mytorch.optim import adamw, warmup_cosine


@dataclass(frozen=True)
class Config(AlignmentConfig):
    """Let a language model learn from its own answers, which a verifier judges."""

    out: str = "runs/Alignment/GRPO"
    init_from: str = "runs/Alignment/SFT"
    model: str = flag("sums", "preset of the network, see SFT/model.py, without --init-from", choices=PRESETS)
    loss: str = flag("grpo", "grpo, dr_grpo (no division by length and standard deviation), rloo", choices=LOSSES)
    group: int = flag(16, "answers to each prompt, which are compared")
    temperature: float = flag(1.0, "of the draws")
    clip_range: float = flag(
        0.2, "how far the probability of a token may move from what it was, as a ratio, and still be rewarded"
    )
    update_epochs: int = flag(1, "updates on a rollout")
    kl_weight: float = flag(0.0, "weight of the divergence from the model of --init-from")
    reward: str = flag(
        "exact", "exact: 1 for a right answer; digits: the share of its tokens before a wrong one", choices=("exact", "digits")
    )
    steps: int = 4000
    batch_size: int = 32
    lr: float = 3e-4
    weight_decay: float = 0.0
    eval_every: int = 50
    save_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("group", self.group >= 2, "at least 2: an answer is compared with the others")
        self._check("temperature", self.temperature > 0, "above 0: an answer has to be drawn")
        self._check("clip_range", self.clip_range > 0, "above 0")
        self._check("kl_weight", self.kl_weight >= 0, "0 or more")
        self._check("update_epochs", self.update_epochs >= 1, "at least 1")
        self._check("accumulate", self.accumulate == 1, "1: a step makes its own batch of --batch-size prompts")
        self._check("parallel", self.parallel == "none", "none: answers are drawn by one process")


def build_model(config: Config, vocabularies: Mapping[str, Any]) -> nn.Module:
    """Return the network of a run, for its weights."""
    return start(config, vocabularies, build, weights=False)


def main(config: Config, data: Splits | None = None) -> History:
    seed_everything(config.seed)
    if config.data != "sums":
        raise UserError(f"--data {config.data}: there is sums, whose answers can be checked")
    sums = Sums(config.digits)
    data = data or sums.splits(config.batch_size, config.seed, config.curriculum)
    model = start(config, data.vocabularies, build)
    reference = frozen(copy.deepcopy(model)).to(device(config.device)) if config.kl_weight else None
    options = {
        "temperature": config.temperature,
        "clip": config.clip_range,
        "reward": config.reward,
        "samples": config.eval_samples,
    }
    options |= {"reference": reference, "kl_weight": config.kl_weight, "seed": config.seed}
    trainer = Trainer(
        model=model,
        task=GRPO(sums, config.loss, config.group, **options),
        optimizer=adamw(config.lr, config.weight_decay, betas=(0.9, 0.95), fused=True),
        schedule=warmup_cosine(10, floor=0.1),
        config=config,
        step=GRPOStep,
    )
    return trainer.fit(data)


if __name__ == "__main__":
    launch(main, Config)
