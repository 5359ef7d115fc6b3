"""What the tests of the recurrent language models share."""

import torch
from torch import Tensor, nn

from dl.mytorch.data import Batch


def tokens(batch: int = 3, length: int = 7) -> Tensor:
    """Return tokens (batch, length) below 11, the same for the same size."""
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(batch))


def stream_batch() -> Batch:
    """Return a batch of three streams that begin."""
    read = tokens(3, 8)
    return {"tokens": read[:, :-1], "targets": read[:, 1:], "begins": torch.ones(3, dtype=torch.bool)}


class Scores(nn.Module):
    """A language model that returns its scores alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).scores
