"""Texts as streams, for truncated back-propagation through time."""

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Loader, Splits
from dl.mytorch.data.sequences import streams
from dl.mytorch.data.text.shakespeare import SOURCES
from dl.mytorch.data.text.shakespeare import encoded as characters
from dl.mytorch.data.text.wikitext2 import encoded as words

EVALUATED = 10  # streams that validate and test: so few that nearly every token has its whole past


def stream_splits(config: TrainConfig, length: int) -> Splits:
    """Return the text that `config.data` names: `config.batch_size` streams train, `length` tokens at a time.

    Characters of Shakespeare, with nothing to test, or the words of WikiText-2. Raises `UserError` for another name, and for
    more streams than there are tokens.
    """
    if config.data != "wikitext2" and config.data not in SOURCES:
        raise UserError(f"--data {config.data}: there are {', '.join(SOURCES)} and wikitext2")
    (train, *others), vocabulary = words() if config.data == "wikitext2" else characters(config.data)
    if config.batch_size >= len(train):
        raise UserError(f"--batch-size {config.batch_size}: a text of {len(train):,} tokens has too few")
    loaders = [Loader(streams(ids, length, EVALUATED), EVALUATED) for ids in others]
    train_loader = Loader(streams(train, length, config.batch_size), config.batch_size)
    return Splits(train_loader, *loaders, vocabularies={"tokens": vocabulary})
