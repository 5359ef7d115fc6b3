"""WikiText-2: articles of Wikipedia as words (Merity, Xiong, Bradbury & Socher 2016, https://arxiv.org/abs/1609.07843).

600 + 60 + 60 articles; 2,088,628 + 217,646 + 245,569 tokens with one <eos> a line; 33,278 different ones. Words that are
rare have been made "<unk>" by its authors. Looked for in data/wikitext-2 as wiki.{train,valid,test}.tokens, else downloaded.
"""

import re
from typing import Literal

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import sources
from dl.mytorch.data.loader import Loader, Splits
from dl.mytorch.data.sequences import blocks
from dl.mytorch.data.sources import Remote, Source
from dl.mytorch.data.text.textfiles import read_lines
from dl.mytorch.data.text.vocabulary import END, UNKNOWN, Vocabulary

Split = Literal["train", "valid", "test"]

_URL = "https://raw.githubusercontent.com/pytorch/examples/77f55b912142e11fcfdf5b530231fb9c52f181e8"
_FOLDER = f"{_URL}/word_language_model/data/wikitext-2"  # its old host is gone
SOURCE = Source(
    ("wikitext-2",),
    {
        "wiki.train.tokens": Remote(f"{_FOLDER}/train.txt", "2d84b35af79e411d73ea7cae83c73964c6ac83b4"),
        "wiki.valid.tokens": Remote(f"{_FOLDER}/valid.txt", "eec944eb2d9e46061cd34a6913528797db6842fc"),
        "wiki.test.tokens": Remote(f"{_FOLDER}/test.txt", "6f3fc88e4cd88456ea892971f9f12243e8428624"),
    },
    "write there the lines that datasets.load_dataset('Salesforce/wikitext', 'wikitext-2-v1') gives for each split",
)


def wikitext2(config: TrainConfig, length: int = 64) -> Splits:
    """For language models on words: blocks of `length` tokens, "tokens" (B, length) and "targets", the same one token later.

    The blocks follow each other in the text, an <eos> after each line, and know nothing of articles. The training blocks
    come shuffled. Every token of a split but its first is predicted once; what fills up the last block is IGNORED.
    The vocabulary, "tokens", is that of the training text. Raises `UserError` when the set is unavailable.
    """
    if config.data != "wikitext2":
        raise UserError(f"--data {config.data}: this recipe's function loads wikitext2")
    texts, vocabulary = encoded()
    train, val, test = (blocks(ids, length) for ids in texts)
    return Splits(
        Loader(train, config.batch_size, shuffle=True, seed=config.seed),
        Loader(val, config.batch_size),
        Loader(test, config.batch_size),
        vocabularies={"tokens": vocabulary},
    )


def encoded() -> tuple[list[Tensor], Vocabulary]:
    """The ids of the training, validation and test texts, (T,) each, and the vocabulary of the first, frequent words first."""
    texts = [words(split) for split in ("train", "valid", "test")]
    vocabulary = Vocabulary.build(texts[0], reserved=(UNKNOWN, END))
    return [torch.tensor(vocabulary.encode(text)) for text in texts], vocabulary


def lines(split: Split) -> list[str]:
    """Return the lines of a split, blank ones and headings too."""
    return read_lines(sources.get("wikitext2", SOURCE) / f"wiki.{split}.tokens")


def words(split: Split) -> list[str]:
    """Return all tokens of a split in a row, "<eos>" at the end of each line: what published perplexities count."""
    return [word for line in lines(split) for word in (*line.split(), END)]


def text(split: Split) -> str:
    """A split as text, for tokens of other kinds: one blank for each of its `words`, a space before or the end of its line."""
    return "".join("".join(f" {word}" for word in line.split()) + "\n" for line in lines(split))


_TITLE = re.compile(r" = (?!= ).+ = ")
_HEADING = re.compile(r" = = .+ = = ")


def documents(lines: list[str]) -> list[list[str]]:
    """Return the articles of a split, each as its paragraphs: lines that are neither blank nor headings, without blanks around.

    An article begins with its title " = Title = " between two blank lines; legends of tables look the same, between
    others. What comes before the first title is an article, too.
    """
    found: list[list[str]] = []
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""]):
        if _TITLE.fullmatch(line) and not before.strip() and not after.strip():
            found.append([])
        elif line.strip() and not _HEADING.fullmatch(line):
            if not found:
                found.append([])
            found[-1].append(line.strip())
    return found


def sentences(paragraph: str) -> list[str]:
    """Return a paragraph cut at " . ", as the d2l book does it (section 15.9): all sentences but the last lose their full stop.

    The book keeps the paragraphs that have two or more, in lower case.
    """
    return paragraph.strip().split(" . ")
