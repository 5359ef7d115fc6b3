"""Texts as streams, for truncated back-propagation through time, or as chunks that know nothing of each other."""

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.data.sequences import blocks, streams, windows
from dl.mytorch.data.text.shakespeare import SOURCES
from dl.mytorch.data.text.shakespeare import encoded as characters
from dl.mytorch.data.text.wikitext2 import encoded as words

EVALUATED = 10  # streams that validate and test: so few that nearly every token has its whole past


def stream_splits(config: TrainConfig, length: int, carried: bool = True) -> Splits:
    """Return the text that `config.data` names: `config.batch_size` streams train, `length` tokens at a time.

    Unless the state is `carried`: then any `length` tokens of the text train, and others in blocks of so many validate, as of
    the models in ../GPT.

    Characters of Shakespeare, with nothing to test, or the words of WikiText-2. Raises `UserError` for another name, and for
    more streams than there are tokens.
    """
    if config.data != "wikitext2" and config.data not in SOURCES:
        raise UserError(f"--data {config.data}: there are {', '.join(SOURCES)} and wikitext2")
    (train, *others), vocabulary = words() if config.data == "wikitext2" else characters(config.data)
    if config.batch_size >= len(train):
        raise UserError(f"--batch-size {config.batch_size}: a text of {len(train):,} tokens has too few")
    if not carried:
        train_loader = Loader(_alone(windows(train, length)), config.batch_size, shuffle=True, seed=config.seed)
        loaders = [Loader(_alone(blocks(ids, length)), config.batch_size) for ids in others]
        return Splits(train_loader, *loaders, vocabularies={"tokens": vocabulary})
    loaders = [Loader(streams(ids, length, EVALUATED), EVALUATED) for ids in others]
    train_loader = Loader(streams(train, length, config.batch_size), config.batch_size)
    return Splits(train_loader, *loaders, vocabularies={"tokens": vocabulary})


def _alone(chunks: dict[str, Tensor]) -> Batch:
    """Return chunks of a text as streams that all begin."""
    return {**chunks, "begins": torch.ones(len(chunks["tokens"]), dtype=torch.bool)}
