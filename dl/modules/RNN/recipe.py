"""What the recipes of RNN, GRU, LSTM and AWD-LSTM share: flags, data, task, optimizer, schedule."""

from dataclasses import dataclass
from typing import Any, Callable, Mapping

from torch import nn

from dl.modules.RNN.averaging import AveragingTrainer
from dl.modules.RNN.data import stream_splits
from dl.modules.RNN.task import StreamModeling
from dl.mytorch import History, TrainConfig, Trainer, seed_everything
from dl.mytorch.config import flag
from dl.mytorch.data import Splits
from dl.mytorch.optim import adamw, constant, sgd, warmup_cosine


@dataclass(frozen=True)
class StreamConfig(TrainConfig):
    """Flags that the recipes of recurrent language models share."""

    data: str = flag(
        "shakespeare", "text: words of WikiText-2, or characters of Shakespeare",
        choices=("wikitext2", "shakespeare", "shakespeare-sample"),
    )  # fmt: skip
    bptt_length: int = flag(64, "truncated-BPTT length in tokens; the hidden state is carried across chunks", alias="length")
    carry_state: bool = flag(True, "no: each chunk, of any place in the text, starts from a zero state, as of GPT-2's recipe")
    dropout: float = flag(
        -1.0, "dropout of embeddings and layers, of AWD-LSTM that of its last layer alone; -1: that of the preset"
    )
    optimizer: str = flag(
        "adamw", "adamw: rises, then falls to 0; ntasgd: a constant rate, weights averaged once validation stalls",
        choices=("adamw", "ntasgd"),
    )  # fmt: skip
    warmup: float = flag(0.02, "share of all steps in which adamw's rate rises; from 1 on, steps")
    min_lr_ratio: float = flag(0.0, "the last rate of adamw, as a share of the highest")
    beta2: float = flag(0.999, "decay of adamw's mean of squared gradients")
    ar_alpha: float = flag(0.0, "weight of AR, the penalty on large outputs of the last layer", alias="activation")
    tar_beta: float = flag(0.0, "weight of TAR, the penalty on outputs that change from token to token", alias="slowness")
    epochs: int = 8
    batch_size: int = 32
    lr: float = 3e-3
    grad_clip: float = 1.0
    save_every: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check(
            "bptt_length", 1 <= self.bptt_length <= 100_000, "at least 1 and at most 100,000"
        )  # each takes the memory of a batch
        self._check("dropout", self.dropout == -1 or 0 <= self.dropout < 1, "at least 0 and below 1, or -1")
        self._check("min_lr_ratio", 0 <= self.min_lr_ratio <= 1, "from 0 to 1")
        self._check("beta2", 0 <= self.beta2 < 1, "at least 0 and below 1")
        for name in ("ar_alpha", "tar_beta", "warmup"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("tar_beta", self.tar_beta == 0 or self.bptt_length > 1, "0 with --bptt-length 1, in which nothing changes")
        if self.optimizer == "ntasgd":
            self._check("ema", self.ema == 0, "0 with --optimizer ntasgd, which keeps its own average of the weights")
            self._check(
                "parallel", self.parallel in ("none", "ddp"), "none or ddp with --optimizer ntasgd, which averages the whole"
            )
            self._check("layerwise", self.layerwise == "none", "none with --optimizer ntasgd, which averages the whole")


def build_for(config: StreamConfig, vocabularies: Mapping[str, Any], build: Callable[..., nn.Module]) -> nn.Module:
    """Return the network that the config asks for; `build` is that of its model.py."""
    options: dict[str, Any] = {} if config.dropout == -1 else {"dropout": config.dropout}
    return build(config.model, vocab_size=len(vocabularies["tokens"]), **options)


def train(config: StreamConfig, build: Callable[..., nn.Module], data: Splits | None = None) -> History:
    """Train as the config says, and return the history: the `main` of a recipe."""
    seed_everything(config.seed)
    data = data or stream_splits(config, config.bptt_length, config.carry_state)
    vocabulary = data.vocabularies["tokens"]
    averaged, decay = config.optimizer == "ntasgd", config.weight_decay
    betas = {} if config.beta2 == 0.999 else {"betas": (0.9, config.beta2)}
    floor = {"floor": config.min_lr_ratio} if config.min_lr_ratio else {}
    trainer = (AveragingTrainer if averaged else Trainer)(
        model=build_for(config, data.vocabularies, build),
        task=StreamModeling(vocabulary, config.ar_alpha, config.tar_beta),
        optimizer=sgd(config.lr, weight_decay=decay) if averaged else adamw(config.lr, decay, fused=True, **betas),
        schedule=constant() if averaged else warmup_cosine(warmup=config.warmup, **floor),
        config=config,
    )
    return trainer.fit(data)
