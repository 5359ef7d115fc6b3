"""What the tests of GPT-2, Llama and what is built on them share."""

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.GPT2 import model as gpt2
from dl.mytorch.data.text.tokens import write_tokens
from dl.mytorch.torchvision_compat import import_torchvision

Model = TypeVar("Model", bound=nn.Module)

TEXT = "to be or not to be, that is the question\n" * 20
PADDING = torch.arange(9) < torch.tensor([[0], [3], [6]])  # on the left
TOKENS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(2))
LONG = torch.randint(11, (2, 24), generator=torch.Generator().manual_seed(3))
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


class Torch64:
    """torch, in which float32 means float64: what transformers computes in float32, whatever the model is in, is exact."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def exact_transformers(monkeypatch: pytest.MonkeyPatch, *models: str) -> ModuleType:
    """Return transformers, whose `models` compute all in float64; the fixture `exact` is needed beside."""
    import_torchvision()  # which transformers imports if it is there
    transformers = pytest.importorskip("transformers")
    for name in ("modeling_rope_utils", *(f"models.{model}.modeling_{model}" for model in models)):
        monkeypatch.setattr(importlib.import_module(f"transformers.{name}"), "torch", Torch64())
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    return transformers


def randomized(model: Model) -> Model:
    """Return weights as after training, so that each shows in the output."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.3)
    return model


def tiny(build: Any = gpt2.build, **overrides: Any) -> nn.Module:
    torch.manual_seed(4)
    return randomized(build("tiny", **{"max_length": 64, **overrides})).double()


@torch.no_grad()
def assert_cuts_change_no_logits(model: nn.Module) -> None:
    """Check that a text read in parts, with a cache, has the logits of the text in one."""
    whole = model(LONG)
    for cuts in ([0, 9, 10, 11, 16, 24], list(range(25))):
        cache = model.new_cache()
        parts = [model(LONG[:, a:b], cache=cache) for a, b in zip(cuts, cuts[1:])]
        assert (torch.cat(parts, dim=1) - whole).abs().max() <= 1e-9


@torch.no_grad()
def assert_padding_on_the_left_moves_nothing(model: nn.Module) -> None:
    """Check that a text has its logits after seven tokens of padding, in one and in parts."""
    padded = torch.cat([LONG[:, :7] * 0, LONG], dim=1)
    mask = (torch.arange(31) < 7).expand(2, 31)
    whole = model(LONG)
    assert (model(padded, mask)[:, 7:] - whole).abs().max() <= 1e-9
    cache = model.new_cache()
    parts = [model(padded[:, a:b], mask[:, :b], cache) for a, b in ((0, 12), (12, 13), (13, 31))]
    assert (torch.cat(parts, dim=1)[:, 7:] - whole).abs().max() <= 1e-9


@torch.no_grad()
def assert_no_token_sees_later_ones(model: nn.Module) -> None:
    """Check that logits depend on no later token, and do depend on earlier ones."""
    whole = model(LONG)
    for t in (1, 4, 23):
        assert (model(LONG[:, :t]) - whole[:, :t]).abs().max() <= 1e-9
    assert not torch.allclose(model(LONG.roll(1, 1))[:, -1], whole[:, -1])
