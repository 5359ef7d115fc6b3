"""A small model and sentences, for tests of decoding and translation."""

import torch
from torch import Tensor, nn

from dl.mytorch.data.text.translation import sentence_pairs

PAD, BEGIN, END = 0, 2, 3
LENGTHS = (6, 2, 4)  # of the sources


class Total:
    """The cache: the sum of the target's words so far, (B, 1, C)."""

    words: Tensor | float = 0.0

    def select(self, rows: Tensor) -> None:
        self.words = self.words[rows]


class Summing(nn.Module):
    """The next word from the sum of the source's words and of the target's words so far, with random weights."""

    max_length = 50

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, 8)
        self.output = nn.Linear(8, vocabulary_size)
        nn.init.normal_(self.output.weight)

    def forward(self, source: Tensor, target: Tensor, source_padding_mask: Tensor | None = None) -> Tensor:
        mask = source == PAD
        return self.decode(target, self.encode(source, mask), mask)

    def encode(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        return self.embedding(source).masked_fill(padding_mask[..., None], 0).sum(1, keepdim=True)

    def decode(self, target: Tensor, memory: Tensor, mask: Tensor, cache: Total | None = None) -> Tensor:
        words = self.embedding(target).cumsum(1) + (cache.words if cache else 0.0)
        if cache:
            cache.words = words[:, -1:]
        return self.output(torch.tanh(memory + words))

    def new_cache(self, source_length: int, target_length: int) -> Total:
        return Total()


def sources(vocabulary_size: int = 16) -> Tensor:
    """Three sentences of `LENGTHS`, filled up: (3, 6)."""
    tokens = torch.randint(1, vocabulary_size, (3, max(LENGTHS)))
    return tokens.masked_fill(torch.arange(max(LENGTHS)) >= torch.tensor(LENGTHS)[:, None], PAD)


def talkative(seed: int, vocabulary_size: int = 16) -> Summing:
    """Random weights, which make for sentences that vary and end."""
    torch.manual_seed(seed)
    return Summing(vocabulary_size).eval()


def unambiguous() -> list[tuple[str, str]]:
    """Return the bundled pairs, of each English sentence its first translation."""
    pairs = [pair for part in sentence_pairs("fra-eng-sample") for pair in part]
    return list(dict(reversed(pairs)).items())
