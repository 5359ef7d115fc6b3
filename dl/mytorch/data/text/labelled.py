"""Sentences with a label: SST-2, or own ones by `--data labelled:FILE`."""

import dataclasses
from pathlib import Path
from typing import NamedTuple, Sequence

import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.loader import Splits
from dl.mytorch.data.split import names_file, read_names
from dl.mytorch.data.text.sst2 import Review, Tokenizer, review_splits, reviews
from dl.mytorch.data.text.textfiles import read_rows

OWN = "labelled:"  # before the path of own sentences


class Labelled(NamedTuple):
    """Sentences of each part; the names of the labels, () for SST-2's two."""

    train: Sequence[Review]
    val: Sequence[Review]
    test: Sequence[Review]
    names: tuple[str, ...] = ()


def labelled(config: TrainConfig) -> Labelled:
    """Return the sentences that `config.data` names. Raises `UserError` when they are unavailable or malformed."""
    path = config.data_path(OWN)
    return Labelled(*reviews(config)) if path is None else split(*read_labelled(path), config.seed, path)


def labelled_splits(config: TrainConfig, tokenizer: Tokenizer, length: int = 64, found: Labelled | None = None) -> Splits:
    """They as batches of sentences of about one length; those of more than `length` tokens are cut."""
    found = found or labelled(config)
    return dataclasses.replace(review_splits(config, found[:3], tokenizer, length), names=found.names)


def class_count(config: TrainConfig) -> int:
    """Return the number of classes of the run in `config.out`: that of the names in it, or SST-2's two."""
    path = names_file(config.out)
    return len(read_names(path)) if path.exists() else 2


def is_known(data: str) -> bool:
    """Return whether `data` is what `--data` of a recipe takes: sst2, or labelled:FILE."""
    return data == "sst2" or (data.startswith(OWN) and data != OWN)


def read_labelled(path: Path | str) -> tuple[list[Review], tuple[str, ...]]:
    """The rows "sentence, label" of a .csv, or of lines with a tab, and the names of the labels in the order of their numbers.

    A first row "sentence, label" or "text, label" is a heading. Raises `UserError` for a row with an empty side, naming file
    and line, and for labels that are all the same.
    """
    rows = []
    for number, row in read_rows(path):
        text, label = (cell.strip() for cell in (*row, "", "")[:2])
        if not rows and (text.lower(), label.lower()) in (("sentence", "label"), ("text", "label")):
            continue
        if not text or not label:
            raise UserError(f"{path}, line {number}: {', '.join(row)[:60]!r} is no sentence with a label")
        rows.append((text, label))
    names = tuple(sorted({label for _, label in rows}))
    if len(names) < 2:
        raise UserError(f"{path} has {len(names)} different labels; there is something to learn from two on")
    return [Review(text, names.index(label)) for text, label in rows], names


def split(found: Sequence[Review], names: tuple[str, ...], seed: int, path: Path | str) -> Labelled:
    """A tenth validates, a tenth is the test, by the seed. All rows of one sentence are in one part, else what is tested would
    have been learnt. Raises `UserError` for fewer than three sentences, and where a label is left for a test alone.
    """
    texts = sorted({text for text, _ in found})
    if len(texts) < 3:
        raise UserError(f"{path}: {len(texts)} different sentences are too few to train, to validate and to test: 3 at least")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(1, len(texts) // 10)
    part = {texts[i]: 1 if place < held_out else 2 if place < 2 * held_out else 0 for place, i in enumerate(order)}
    train, val, test = ([review for review in found if part[review.text] == which] for which in range(3))
    if unseen := set(range(len(names))) - {label for _, label in train}:
        raise UserError(
            f"{path}: no sentence labelled {names[min(unseen)]!r} is left to learn from; another --seed, or more of them"
        )
    return Labelled(train, val, test, names)
