"""SST-2: phrases and sentences from film reviews, for (1) or against (0) the film.

Socher et al. 2013, https://aclanthology.org/D13-1170, in the form of GLUE (Wang et al. 2018,
https://arxiv.org/abs/1804.07461): 67,349 to learn from, phrases of longer sentences among them, and 872 sentences whose
labels are public, "dev.tsv". The labels of GLUE's own test set are not.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import sources
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.sequences import pad
from dl.mytorch.data.sources import Source
from dl.mytorch.data.text.textfiles import read_lines
from dl.mytorch.data.text.vocabulary import Vocabulary

SOURCE = Source(
    ("sst2",),
    {"train.tsv": None, "dev.tsv": None},
    "unpack train.tsv and dev.tsv of https://dl.fbaipublicfiles.com/glue/data/SST-2.zip there; or write both yourself from "
    'datasets.load_dataset("stanfordnlp/sst2"), its splits train and validation: a first line "sentence<tab>label", then '
    "a sentence, a tab and 0 or 1 in each",
)


class Tokenizer(Protocol):
    """What makes ids of a sentence."""

    vocabulary: Vocabulary
    padding: int  # the id that fills up rows

    def encode(self, text: str, length: int) -> Tensor:
        """Text -> ids (T,), `length` of them at most."""
        ...


class Review(NamedTuple):
    """A sentence and its label: 1 for positive, 0 for negative."""

    text: str
    label: int


def read(path: Path | str) -> list[Review]:
    """Return the sentences of a file. Raises `UserError`, naming file and line, for what is no such file."""
    head, *lines = read_lines(path)
    if head.split("\t") != ["sentence", "label"]:
        raise UserError(f"{path} begins with {head!r}, not with the line 'sentence<tab>label'")
    reviews = []
    for number, line in enumerate(lines, start=2):
        text, _, label = line.rpartition("\t")
        if label not in ("0", "1") or not text.strip() or "\t" in text:
            raise UserError(f"{path}, line {number}: {line!r} is no sentence, tab, and 0 or 1")
        reviews.append(Review(text.strip(), int(label)))
    if not reviews:
        raise UserError(f"{path} holds no sentence")
    return reviews


class Encoded(Dataset):
    """Sentences as ids: example i is a pair of ids (T,) and a label."""

    def __init__(self, reviews: Sequence[Review], tokenizer: Tokenizer, length: int) -> None:
        self.ids = [tokenizer.encode(text, length) for text, _ in reviews]
        self.labels = [label for _, label in reviews]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.ids[i], self.labels[i]


def together(examples: list[tuple[Tensor, int]], padding: int) -> Batch:
    """Return examples as "tokens" (B, longest) and "labels" (B,)."""
    ids, labels = zip(*examples)
    return {"tokens": pad(ids, padding), "labels": torch.tensor(labels)}


def sst2(config: TrainConfig, tokenizer: Tokenizer, length: int = 64) -> Splits:
    """SST-2 as batches of sentences of about one length; those of more than `length` tokens are cut.

    A tenth of train.tsv, drawn by the seed whatever the order of its lines, validates; dev.tsv is the test.
    Many sentences that validate are phrases of those in training, so the test is the harder one.
    """
    return review_splits(config, reviews(config), tokenizer, length)


def reviews(config: TrainConfig) -> tuple[list[Review], list[Review], list[Review]]:
    """Training, validation and test sentences, see `sst2`.

    Raises `UserError` for another set, when it is unavailable, and for a train.tsv of one sentence.
    """
    if config.data != "sst2":
        raise UserError(f"--data {config.data}: this recipe's function loads sst2")
    folder = sources.get("sst2", SOURCE)
    known = sorted(read(folder / "train.tsv"))
    if len(known) < 2:
        raise UserError(f"{folder / 'train.tsv'} holds one sentence; one to learn from and one to validate are the least")
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(config.seed)).tolist()
    held_out = max(1, len(order) // 10)
    val, train = ([known[i] for i in part] for part in (order[:held_out], order[held_out:]))
    return train, val, read(folder / "dev.tsv")


def review_splits(config: TrainConfig, splits: Sequence[Sequence[Review]], tokenizer: Tokenizer, length: int = 64) -> Splits:
    """Training, validation and test sentences as batches. The vocabulary, "tokens", is the tokenizer's."""
    collate = partial(together, padding=tokenizer.padding)
    loaders = []
    for reviews in splits:
        encoded = Encoded(reviews, tokenizer, length)
        options = {"lengths": [len(ids) for ids in encoded.ids], "collate": collate, "num_workers": config.num_workers}
        loaders.append(Loader(encoded, config.batch_size, shuffle=not loaders, seed=config.seed, **options))
    return Splits(*loaders, vocabularies={"tokens": tokenizer.vocabulary})
