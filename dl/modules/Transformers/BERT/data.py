"""Pairs of sentences with masked tokens: the input of BERT's pre-training."""

from functools import partial
from itertools import chain
from typing import Iterable, NamedTuple

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Batch, Loader, Splits, Vocabulary
from dl.mytorch.data.sequences import IGNORED, pad
from dl.mytorch.data.text.vocabulary import PADDING, UNKNOWN
from dl.mytorch.data.text.wikitext2 import documents, lines, sentences

# B batch, T tokens, M masked tokens at most, S sentences

CLS, SEP, MASK = "<cls>", "<sep>", "<mask>"
RESERVED = (PADDING, UNKNOWN, CLS, SEP, MASK)  # the padding has the id 0
SHARE = 0.15  # of the tokens of a pair that are masked

Sentence = list[str]
Paragraph = list[Sentence]


def wikitext2_pairs(config: TrainConfig, length: int = 64, min_count: int = 5, spans: bool = False) -> Splits:
    """Sentence pairs of WikiText-2 in lower case: the paragraphs of two sentences or more, as the d2l book has them.

    With `spans`, what is called a sentence is as many in a row as fill half of a row, from whole articles: the paper's
    way (appendix A.2).
    """
    if config.data != "wikitext2":
        raise UserError(f"--data {config.data}: this recipe's function loads wikitext2")
    splits = []
    for split in ("train", "valid", "test"):
        articles = [[_words(text) for text in article] for article in documents(lines(split))]
        if spans:
            splits.append([merged(chain(*article), (length - 3) // 2) for article in articles])
        else:
            splits.append([paragraph for article in articles for paragraph in article])
    return pair_splits(splits, config, length, min_count)


def _words(text: str) -> Paragraph:
    return [sentence.split() for sentence in sentences(text.lower())]


def merged(text: Iterable[Sentence], size: int) -> Paragraph:
    """Join sentences until they have `size` words, with the full stops that they lost; less at the end is left out."""
    spans: Paragraph = [[]]
    for sentence in text:
        spans[-1] += sentence if sentence[-1:] == ["."] else [*sentence, "."]
        if len(spans[-1]) >= size:
            spans.append([])
    return spans[:-1]


def pair_splits(splits: Iterable[list[Paragraph]], config: TrainConfig, length: int = 64, min_count: int = 1) -> Splits:
    """Training, validation and test paragraphs as batches for the task `PreTraining`, of `length` tokens a row.

    An example is a sentence that another follows in its paragraph. In training both the second sentence and the masks
    are drawn again in each epoch, from the loader's generator; for validation and test once and for all. The vocabulary,
    "tokens", is that of the training paragraphs. Raises `UserError` for a split without two sentences in a row, or when
    every word is rarer than `min_count`.
    """
    splits = list(splits)
    words = (word for paragraph in splits[0] for sentence in paragraph for word in sentence)
    train, val, test = (_usable(part) for part in splits)
    vocabulary = Vocabulary.build(words, RESERVED, min_count)
    if len(vocabulary) == len(RESERVED):
        raise UserError(f"every word of the training text is {UNKNOWN}: none is there {min_count} times (--min-count)")
    fixed = []
    for part in (val, test):
        text = Sentences.of(part, vocabulary, length)
        generator = torch.Generator().manual_seed(0)  # whatever the seed of the run: so that runs compare
        fixed.append(draw({"first": text.followed}, generator, text, vocabulary, length))
    text = Sentences.of(train, vocabulary, length)
    transform = partial(draw, text=text, vocabulary=vocabulary, length=length)
    return Splits(
        Loader({"first": text.followed}, config.batch_size, shuffle=True, seed=config.seed, transform=transform),
        *(Loader(part, config.batch_size) for part in fixed),
        vocabularies={"tokens": vocabulary},
    )


def _usable(paragraphs: list[Paragraph]) -> list[Paragraph]:
    """Return the paragraphs without empty sentences, of those that then have two or more."""
    kept = [[sentence for sentence in paragraph if sentence] for paragraph in paragraphs]
    kept = [paragraph for paragraph in kept if len(paragraph) > 1]
    if not kept:
        raise UserError("a text without a paragraph of two sentences has no sentence pairs")
    return kept


class Sentences(NamedTuple):
    """All sentences of a split in their order."""

    ids: Tensor  # (S, T - 3) filled up with the padding; longer ones are cut, as no pair has room for more
    lengths: Tensor  # (S,)
    followed: Tensor  # the numbers of the sentences that another follows in their paragraph

    @classmethod
    def of(cls, paragraphs: list[Paragraph], vocabulary: Vocabulary, length: int) -> "Sentences":
        """Return the sentences of paragraphs that have been split into words, for rows of `length` tokens."""
        encoded = [torch.tensor(vocabulary.encode(words[: length - 3])) for sentences in paragraphs for words in sentences]
        ends = torch.tensor([i + 1 == len(sentences) for sentences in paragraphs for i in range(len(sentences))])
        lengths = torch.tensor([len(ids) for ids in encoded])
        return cls(pad(encoded, vocabulary[PADDING]), lengths, (~ends).nonzero().flatten())


def draw(batch: Batch, generator: torch.Generator, text: Sentences, vocabulary: Vocabulary, length: int) -> Batch:
    """Return a batch with "first" (B,), numbers of sentences -> one for the task `PreTraining`.

    Task 2 of section 3.1: half of the time the second sentence is the next one (label 0), else any of the text (label 1).
    """
    first = batch["first"]
    labels = torch.randint(2, first.shape, generator=generator)
    random = torch.randint(len(text.ids), first.shape, generator=generator)
    second = torch.where(labels == 0, first + 1, random)
    tokens, segments = join(text, first, second, vocabulary, length)
    return {"segments": segments, "labels": labels, **mask(tokens, generator, vocabulary)}


def join(text: Sentences, first: Tensor, second: Tensor, vocabulary: Vocabulary, length: int) -> tuple[Tensor, Tensor]:
    """<cls> first <sep> second <sep>, filled up with padding: tokens and segments (B, length).

    What does not fit is cut off at the end of the longer sentence, until both are of one length. (Appendix A.2; the
    paper's code cuts at either end.)
    """
    room = length - 3
    a, b = text.lengths[first], text.lengths[second]
    a = torch.minimum(a, (room - b).clamp(min=room - room // 2))
    b = torch.minimum(b, room - a)
    tokens = torch.full((len(first), length), vocabulary[PADDING])
    tokens[:, 0] = vocabulary[CLS]
    places = torch.arange(length)  # (T,)
    a, b = a[:, None], b[:, None]  # (B, 1)
    for start, size, which in ((1, a, first), (a + 2, b, second)):
        inside = (places >= start) & (places < start + size)  # (B, T)
        source = (places - start).clamp(0, text.ids.shape[1] - 1).expand(len(first), -1)
        tokens = torch.where(inside, text.ids[which].gather(1, source), tokens)
    tokens[(places == a + 1) | (places == a + b + 2)] = vocabulary[SEP]
    segments = ((places >= a + 2) & (places <= a + b + 2)).long()
    return tokens, segments


def mask(tokens: Tensor, generator: torch.Generator, vocabulary: Vocabulary) -> Batch:
    """Task 1 of section 3.1: tokens (B, T) -> "tokens" with holes, "positions" and "targets" (B, M).

    15 % of the tokens of a row, at least one, are to be predicted, none of <cls>, <sep> and padding. 80 % of these
    become <mask>, 10 % a random word, 10 % stay as they are. A row with fewer than M has targets `IGNORED` at its end.
    """
    batch, length = tokens.shape
    special = torch.tensor([vocabulary[token] for token in (PADDING, CLS, SEP)])
    chance = torch.rand(batch, length, generator=generator).masked_fill(torch.isin(tokens, special), -1.0)
    most = max(1, round(SHARE * length))
    positions = chance.topk(most).indices  # (B, T) -> (B, M)
    count = (SHARE * (tokens != vocabulary[PADDING]).sum(1)).round().clamp(min=1)  # (B,)
    chosen = torch.arange(most) < count[:, None]  # (B, M)
    old = tokens.gather(1, positions)
    kind = torch.rand(positions.shape, generator=generator)
    words = torch.randint(len(RESERVED), len(vocabulary), positions.shape, generator=generator)
    new = torch.where(kind < 0.8, vocabulary[MASK], torch.where(kind < 0.9, words, old))
    return {
        "tokens": tokens.scatter(1, positions, torch.where(chosen, new, old)),
        "positions": positions,
        "targets": torch.where(chosen, old, IGNORED),
    }
