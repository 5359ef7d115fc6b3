"""Language modelling that shows what the model writes."""

from typing import Protocol, Sequence

import torch
from torch import Tensor, nn

from dl.modules.GPT.generation import generate
from dl.mytorch.metrics import Metric
from dl.mytorch.tasks import LanguageModeling


class Tokens(Protocol):
    """Characters (`Vocabulary`) or word pieces (`BPE`)."""

    def __len__(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str | list[str]: ...


def to_text(tokens: Tokens, ids: Sequence[int]) -> str:
    """The text of ids."""
    decoded = tokens.decode(ids)
    return decoded if isinstance(decoded, str) else "".join(decoded)


class TextModeling(LanguageModeling):
    """The loss per token, and some text after each evaluation, as TensorBoard shows it."""

    length = 100  # tokens of the text that is shown

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens

    def metrics(self) -> dict[str, Metric]:
        return {}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        device = next(model.parameters()).device
        prompt = torch.tensor([self.tokens.encode("\n")[:1] or [0]], device=device)
        (ids,) = generate(model, prompt, max_new_tokens=self.length, seed=0).tolist()
        return {"sample": to_text(self.tokens, ids)}
