"""Labelled sentences as words."""

from typing import Callable, Sequence

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.data.text.labelled import labelled, labelled_splits
from dl.mytorch.data.text.sst2 import Review
from dl.mytorch.data.text.translation import tokenize
from dl.mytorch.data.text.vocabulary import PADDING, UNKNOWN


class Words:
    """Return the tokens that `cut` makes of a sentence; default: split at blanks, as SST-2 is written, in lower case."""

    padding = 0

    def __init__(self, vocabulary: Vocabulary, cut: Callable[[str], list[str]] = str.split) -> None:
        self.vocabulary, self.cut = vocabulary, cut

    @classmethod
    def of(cls, sentences: Sequence[Review], min_count: int, cut: Callable[[str], list[str]] = str.split) -> "Words":
        """Return the words that occur in the sentences `min_count` times or more."""
        words = (word for text, _ in sentences for word in cut(text))
        return cls(Vocabulary.build(words, (PADDING, UNKNOWN), min_count), cut)

    def encode(self, text: str, length: int) -> Tensor:
        return torch.tensor(self.vocabulary.encode(self.cut(text)[:length]))


def word_splits(config: TrainConfig, length: int, min_count: int) -> Splits:
    """Return batches "tokens" (B, T) and "labels" (B,), and the vocabulary of the training sentences, cut into words first."""
    found = labelled(config)
    words = Words.of(found.train, min_count, tokenize if found.names else str.split)
    return labelled_splits(config, words, length, found)
