"""What the tests of the recurrent language models share."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch.data import Batch, Loader, Splits, Vocabulary
from dl.mytorch.data.sequences import streams
from dl.mytorch.data.text.translation import PairSplits, token_splits
from dl.mytorch.text.testing import PAD, sources

TEXT = "to be or not to be, that is the question\n" * 12
STREAM_RUN = {
    "model": "tiny",
    "bptt_length": 8,
    "batch_size": 4,
    "save_every": 0,
    "lr": 1e-2,
    "dropout": 0.1,
}  # of a language model


def tokens(batch: int = 3, length: int = 7) -> Tensor:
    """Return tokens (batch, length) below 11, the same for the same size."""
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(batch))


def stream_batch() -> Batch:
    """Return a batch of three streams that begin."""
    read = tokens(3, 8)
    return {"tokens": read[:, :-1], "targets": read[:, 1:], "begins": torch.ones(3, dtype=torch.bool)}


def tiny_streams(batch_size: int = 4, length: int = 8) -> Splits:
    """Return the letters of `TEXT` in streams: 10 + 5 + 4 batches."""
    vocabulary = Vocabulary.build(TEXT, reserved=())
    ids = torch.tensor(vocabulary.encode(TEXT))
    parts = (ids[:333], ids[333:420], ids[420:])
    counts = (batch_size, 2, 2)
    return Splits(*(Loader(streams(part, length, n), n) for part, n in zip(parts, counts)), vocabularies={"tokens": vocabulary})


class Scores(nn.Module):
    """A language model that returns its scores alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).scores


def example() -> tuple[Tensor, Tensor, Tensor]:
    """Source, target and the source's padding mask."""
    source = sources()
    return source, torch.randint(1, 16, (3, 5)), source == PAD


def pairs_batch() -> Batch:
    """Return source and target of `example`."""
    source, target, _ = example()
    return {"source": source, "target": target}


def splits(config: Any) -> Splits:
    """36 + 7 + 7 pairs of 1 to 8 letters."""
    words = "a b c d e f g".split()
    lengths = torch.randint(1, 9, (50, 2), generator=torch.Generator().manual_seed(0)).tolist()
    pairs = [tuple(" ".join(words[(i + k) % 7] for k in range(n)) for n in both) for i, both in enumerate(lengths)]
    return token_splits(config, PairSplits(pairs[:36], pairs[36:43], pairs[43:]))
