"""What the tests of GPT-2, Llama and what is built on them share."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.GPT2 import model as gpt2
from dl.mytorch.data.text.tokens import write_tokens

Model = TypeVar("Model", bound=nn.Module)

TEXT = "to be or not to be, that is the question\n" * 20
PADDING = torch.arange(9) < torch.tensor([[0], [3], [6]])  # on the left
TOKENS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(2))
BATCH = {"tokens": TOKENS[:, :8], "targets": TOKENS[:, 1:]}


def token_file(folder: Path) -> Path:
    """Return a folder below `folder` with `TEXT` in word pieces, as `prepare` leaves it."""
    bpe = BPE.train(TEXT, 270)
    bpe.save(folder / "pieces")
    write_tokens(folder / "pieces" / "tokens.bin", [bpe.encode(TEXT)])
    return folder / "pieces"


class Unpadded(nn.Module):
    """Logits of real tokens; those of padding are zero."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.model(tokens, padding).masked_fill(padding[..., None], 0)


class AsOurs(nn.Module):
    """A model of transformers, called and answering as ours."""

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.reference(input_ids=tokens, attention_mask=(~padding).long()).logits


def randomized(model: Model) -> Model:
    """Return weights as after training, so that each shows in the output."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model


def tiny(build: Any = gpt2.build, **overrides: Any) -> nn.Module:
    torch.manual_seed(4)
    return randomized(build("tiny", **{"max_length": 64, **overrides})).double()
