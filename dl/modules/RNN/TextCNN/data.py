"""SST-2 as words."""

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig
from dl.mytorch.data import Splits, Vocabulary
from dl.mytorch.data.text.sst2 import Review, review_splits, reviews
from dl.mytorch.data.text.vocabulary import PADDING, UNKNOWN


class Words:
    """What stands between blanks, as SST-2 is written: words and marks in lower case."""

    padding = 0

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    @classmethod
    def of(cls, sentences: list[Review], min_count: int) -> "Words":
        """Those that are in the sentences `min_count` times or more."""
        words = (word for text, _ in sentences for word in text.split())
        return cls(Vocabulary.build(words, (PADDING, UNKNOWN), min_count))

    def encode(self, text: str, length: int) -> Tensor:
        return torch.tensor(self.vocabulary.encode(text.split()[:length]))


def word_splits(config: TrainConfig, length: int, min_count: int) -> Splits:
    """Batches "tokens" (B, T) and "labels" (B,), and the vocabulary of the training sentences."""
    splits = reviews(config)
    return review_splits(config, splits, Words.of(splits[0], min_count), length)
