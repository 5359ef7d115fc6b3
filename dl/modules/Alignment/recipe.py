"""What SFT, DPO and GRPO share: flags, and the network that a run begins with."""

from dataclasses import dataclass
from os.path import expanduser
from pathlib import Path
from typing import Any, Callable, Mapping

import torch
from torch import nn

from dl.cli.runs import Run
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.lora import adapt, merge
from dl.mytorch import TrainConfig
from dl.mytorch.config import UserError, flag
from dl.mytorch.data import Vocabulary
from dl.mytorch.files import read_json
from dl.mytorch.text.generation import Tokens

# Whose runs another may begin from.
RECIPES = ("Alignment/SFT", "Alignment/DPO", "Alignment/GRPO", "GPT/GPT2", "GPT/Llama", "GPT/Qwen3")


@dataclass(frozen=True)
class AlignmentConfig(TrainConfig):
    """What a recipe can be told that teaches a language model to answer."""

    data: str = flag("sums", "sums, whose answers can be checked")
    digits: int = flag(2, "digits of the numbers that are added: 1 to 3")
    curriculum: bool = flag(False, "of each batch, mix in sums of numbers with fewer digits, as many of each")
    init_from: str = flag(
        "", "run whose best weights are the first ones; {seed} in it is --seed. Its folder has to stay", alias="run"
    )
    lora_rank: int = flag(0, "learn adapters of this rank in the attention layers, all else frozen; 0 = all weights")
    eval_samples: int = flag(4, "answers that are drawn for each held-out prompt")
    grad_clip: float = 1.0

    @staticmethod
    def read_vocabulary(path: Path) -> Tokens:
        """Return the tokens that a run keeps: characters, or word pieces."""
        return BPE.read(path) if isinstance(read_json(path), dict) else Vocabulary.load(path)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "init_from", expanduser(self.init_from))
        self._check("digits", 1 <= self.digits <= 3, "from 1 to 3")
        self._check("lora_rank", self.lora_rank >= 0, "0 or more")
        self._check("eval_samples", self.eval_samples >= 1, "at least 1")
        self._check("layerwise", self.layerwise == "none", "none: what is generated needs the whole network")

    @property
    def start(self) -> str:
        """Return the folder of the run to begin from, "" for none."""
        return self.init_from.replace("{seed}", str(self.seed))


def start(
    config: AlignmentConfig, vocabularies: Mapping[str, Any], build: Callable[..., nn.Module], weights: bool = True
) -> nn.Module:
    """Return the network that a run begins with: that of `config.init_from`, or a new one of the preset `config.model`.

    Adapters of the run before are merged; those of `config.lora_rank` are new. Without `weights`, those of the run before are
    not read, for a network that gets others. `vocabularies` may have tokens after
    those of the run. Raises `UserError` for others.
    """
    if config.start:
        run = Run.open(config.start, *RECIPES)
        before, now = (list(found["tokens"].tokens) for found in (run.vocabularies, vocabularies))
        if now[: len(before)] != before:
            raise UserError(f"--init-from {config.start} has other tokens than --data {config.data}")
        model = merge(run.module.build_model(run.config, vocabularies))
        if weights:
            put_rows(model, merge(run.model()))
        model.train()
    else:
        model = build(config.model, vocab_size=len(vocabularies["tokens"]))
    return adapt(model, config.lora_rank) if config.lora_rank else model


@torch.no_grad()
def put_rows(model: nn.Module, before: nn.Module) -> None:
    """Copy the weights of a network of fewer tokens; rows of new tokens stay as they were drawn."""
    for (name, weight), own in zip(before.state_dict().items(), model.state_dict().values(), strict=True):
        if own.shape[1:] != weight.shape[1:] or len(own) < len(weight):
            raise UserError(f"--init-from: {name} is {tuple(weight.shape)} there, {tuple(own.shape)} here")
        own[: len(weight)] = weight


def frozen(model: nn.Module) -> nn.Module:
    """Return `model` as a reference: in evaluation mode, and without gradients."""
    return model.eval().requires_grad_(False)
