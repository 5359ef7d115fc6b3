"""Pairs of sentences: what is said in one language, and the same in another.

- fra-eng: 167,130 English sentences with their French (https://www.manythings.org/anki/, from tatoeba.org), as in the d2l
  book. Looked for as data/fra-eng/fra.txt, else downloaded.
- fra-eng-d2l: its first 640, nearly as the book has them (`book_pairs`).
- fra-eng-sample: 1,024 pairs of it, bundled with this repository.
- multi30k: 29,000 + 1,014 + 1,000 German captions of images with their English (Elliott, Frank, Sima'an & Specia 2016,
  https://arxiv.org/abs/1605.00459; test set of 2016). Looked for as data/multi30k/{train,val,test_2016_flickr}.{de,en}.gz,
  else downloaded.
- pairs:FILE: own ones, see `read_pairs`, split as fra-eng is.
"""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dl.mytorch.config import TrainConfig, UserError, user_path
from dl.mytorch.data import sources
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.sequences import pad
from dl.mytorch.data.sources import Remote, Source
from dl.mytorch.data.text.textfiles import read_lines, read_rows
from dl.mytorch.data.text.vocabulary import BEGIN, END, PADDING, UNKNOWN, Vocabulary

Pair = tuple[str, str]  # source, target
OWN = "pairs:"  # before the path of own pairs
RESERVED = (PADDING, UNKNOWN, BEGIN, END)  # with the ids 0, 1, 2, 3
BOOK = [("Go.", "Va !"), ("I lost.", "J'ai perdu."), ("He's calm.", "Il est calme."), ("I'm home.", "Je suis chez moi.")]

_FRA_ENG = "https://raw.githubusercontent.com/modelexlab/data/adddaf33ac35572bcfeb421efec29435e7ea9332/fra-eng.zip"
_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw"
_BLOBS = {
    "train.de.gz": "8226b4b333656238e113284cf738778e1287b52e",
    "train.en.gz": "9518a79e4aefbd3b99bd5887000c36e6a35de14b",
    "val.de.gz": "8eb30ab9e5edd301e4c94330713c88513dd43dbc",
    "val.en.gz": "ab398432791947b7001173f065764887fb63c346",
    "test_2016_flickr.de.gz": "96b762cc43d913a5d23e5ec65acbc58a50d0a9b8",
    "test_2016_flickr.en.gz": "c3c1142a4d12fa9d7736c81dca0dcea51975477e",
}
SOURCES = {
    "fra-eng": Source(
        ("fra-eng",),
        {"fra.txt": Remote(_FRA_ENG, "29208aee343c889c0dfb1559134da76b2d83a587", member="fra-eng/fra.txt")},
        "put the fra.txt of https://www.manythings.org/anki/fra-eng.zip there; the bundled pairs: --data fra-eng-sample",
    ),
    "fra-eng-sample": Source(("fra-eng-sample",), {"fra.txt": None}, "git checkout data/fra-eng-sample brings it back"),
    "multi30k": Source(
        ("multi30k",),
        {name: Remote(f"{_MULTI30K}/{name}", blob) for name, blob in _BLOBS.items()},
        "put its files there from data/task1/raw of https://github.com/multi30k/dataset",
    ),
}
SOURCES["fra-eng-d2l"] = SOURCES["fra-eng"]


class PairSplits(NamedTuple):
    """The sentences themselves, as they are written: what BLEU compares with."""

    train: list[Pair]
    val: list[Pair]
    test: list[Pair]


def translation(config: TrainConfig, min_count: int = 2, shared: bool = False) -> Splits:
    """Return the pairs that `config.data` names, as ids: see `token_splits`."""
    return token_splits(config, sentence_pairs(config.data, config.seed), min_count, shared)


def sentence_pairs(name: str, seed: int = 0) -> PairSplits:
    """fra-eng is split by `seed` and its English sentences: 5 % validate, 5 % test, the rest trains; multi30k is as published.

    Raises `UserError` for another name and for files that are unavailable or malformed.
    """
    if name.startswith(OWN):
        return split_pairs(read_pairs(user_path(name.removeprefix(OWN))), seed)
    if name not in SOURCES:
        raise UserError(f"--data {name}: no such set of pairs; there are {', '.join(SOURCES)}, and {OWN}FILE")
    folder = sources.get(name, SOURCES[name])
    if name == "multi30k":
        parts = ("train", "val", "test_2016_flickr")
        return PairSplits(*(read_aligned(folder / f"{part}.de.gz", folder / f"{part}.en.gz") for part in parts))
    pairs = read_pairs(folder / "fra.txt")
    return book_pairs(pairs) if name == "fra-eng-d2l" else split_pairs(pairs, seed)


def book_pairs(pairs: list[Pair]) -> PairSplits:
    """Split as the first edition of the d2l book, sections 9.5 and 10.7: 600 pairs train, its four sentences are the test.

    The next 40 pairs validate, which the book does without. Of the four, three are among the 600: the test asks what was
    memorised, and with "He's calm." what was understood. Raises `UserError` for 600 pairs or fewer.
    """
    if len(pairs) <= 600:
        raise UserError(f"{len(pairs)} pairs are too few for the book's split: 600 train, those after validate")
    return PairSplits(pairs[:600], pairs[600:640], BOOK)


def split_pairs(pairs: list[Pair], seed: int = 0) -> PairSplits:
    """Split pairs; all translations of a source sentence go to one part, so that nothing tested was trained on.

    Raises `UserError` for fewer than three source sentences, one a part.
    """
    sources = list(dict.fromkeys(source for source, _ in pairs))
    if len(sources) < 3:
        raise UserError(f"{len(sources)} different source sentences are too few to train, to validate and to test: 3 at least")
    order = torch.randperm(len(sources), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(1, len(sources) // 20)
    part = {sources[i]: 1 if place < held_out else 2 if place < 2 * held_out else 0 for place, i in enumerate(order)}
    return PairSplits(*([pair for pair in pairs if part[pair[0]] == which] for which in range(3)))


def read_pairs(path: Path | str) -> list[Pair]:
    """Read lines of source, tab, target, or a .csv of the two; what follows (newer files name the author) is left out.

    A first row "source, target" is a heading. Raises `UserError` for a row with an empty side, naming file and line.
    """
    comma = ".csv" in Path(path).suffixes
    pairs = []
    for number, row in read_rows(path):
        source, target = (*row, "", "")[:2]
        if not pairs and (source.strip().lower(), target.strip().lower()) == ("source", "target"):
            continue
        if not source.strip() or not target.strip():
            shown = (", " if comma else "\t").join(row)[:60]
            between = "comma" if comma else "tab"
            raise UserError(f"{path}, line {number}: {shown!r} is not a sentence, a {between} and its translation")
        pairs.append((source, target))
    return pairs


def read_aligned(source: Path | str, target: Path | str) -> list[Pair]:
    """Two files, line by line. Raises `UserError` when they differ in length, and for an empty line, naming it."""
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise UserError(f"{source} has {len(sources)} lines, {target} has {len(targets)}: they are not of one set")
    pairs = list(zip(sources, targets))
    empty = next((number for number, pair in enumerate(pairs, 1) if not all(side.strip() for side in pair)), None)
    if empty:
        raise UserError(f"line {empty} of {source} or of {target} is empty: each has to be a sentence")
    return pairs


def tokenize(sentence: str) -> list[str]:
    """Return words and marks in lower case: cut at spaces, those that do not break included, and before each of , . ! ?

    As in the d2l book, section 10.5. Apostrophes stay inside words.
    """
    return re.sub("(?=[,.!?])", " ", sentence.lower()).split()


def token_splits(config: TrainConfig, pairs: PairSplits, min_count: int = 2, shared: bool = False) -> Splits:
    """Batches: "source" (B, S), words and <eos>; "target" (B, T), <bos>, words and <eos>; both filled up with <pad>, id 0.

    The vocabularies, "source" and "target", hold the words of the training pairs that are there `min_count` times or
    more; with `shared` they are one. Sentences of about one length share a batch.
    """
    parts = [[(tokenize(source), tokenize(target)) for source, target in part] for part in pairs]
    sides = list(zip(*parts[0]))
    counted = [sides[0] + sides[1]] * 2 if shared else sides
    source, target = (Vocabulary.build((w for words in side for w in words), RESERVED, min_count) for side in counted)
    sets = [_Pairs(part, source, target) for part in parts]
    options = {"seed": config.seed, "num_workers": config.num_workers, "collate": _collate}
    loaders = [Loader(d, config.batch_size, shuffle=i == 0, lengths=d.lengths, **options) for i, d in enumerate(sets)]
    return Splits(*loaders, vocabularies={"source": source, "target": target})


class _Pairs(Dataset):
    """Pairs of ids (S,), (T,)."""

    def __init__(self, pairs: list[tuple[list[str], list[str]]], source: Vocabulary, target: Vocabulary) -> None:
        self.sources = [torch.tensor(source.encode([*words, END])) for words, _ in pairs]
        self.targets = [torch.tensor(target.encode([BEGIN, *words, END])) for _, words in pairs]
        # By source, then target: sorted by the sum of both, batches have more than twice the padding.
        self.lengths = [1000 * len(s) + len(t) for s, t in zip(self.sources, self.targets)]

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.sources[i], self.targets[i]


def _collate(pairs: list[tuple[Tensor, Tensor]]) -> Batch:
    sources, targets = zip(*pairs)
    return {"source": pad(sources, RESERVED.index(PADDING)), "target": pad(targets, RESERVED.index(PADDING))}
