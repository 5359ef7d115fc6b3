"""Shakespeare, character by character.

- shakespeare: the "tiny Shakespeare" of https://github.com/karpathy/char-rnn, 1,115,394 characters, 65 of them distinct.
  Looked for as data/tinyshakespeare/input.txt, else downloaded.
- shakespeare-sample: eight other plays, bundled with this repository, 1,016,368 characters, 63 of them distinct.
"""

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import sources
from dl.mytorch.data.loader import Loader, Splits
from dl.mytorch.data.sequences import blocks, windows
from dl.mytorch.data.sources import Remote, Source
from dl.mytorch.data.text.textfiles import read_text
from dl.mytorch.data.text.vocabulary import Vocabulary

_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
_REMOTE = Remote(f"{_URL}/data/tinyshakespeare/input.txt", "7dcb3a2d4cc3b48b6283dd46870bfeb78f88aac9")
SOURCES = {
    "shakespeare": Source(("tinyshakespeare",), {"input.txt": _REMOTE}, "the bundled plays: --data shakespeare-sample"),
    "shakespeare-sample": Source(
        ("shakespeare-sample",), {"input.txt": None}, "git checkout data/shakespeare-sample brings it back"
    ),
}


def shakespeare(config: TrainConfig, length: int = 256) -> Splits:
    """For language models: the first nine tenths to train on, the last tenth to validate, nothing to test, as nanoGPT has it.

    Batches: "tokens" (B, length) and "targets", the same one character later. A training example is any chunk of the
    text, so an epoch has nearly as many as there are characters: count in --steps. Validation predicts each character
    once. The vocabulary, "tokens", is that of the training part. Raises `UserError` when the text is unavailable.
    """
    (train, val), vocabulary = encoded(config.data)
    return Splits(
        Loader(windows(train, length), config.batch_size, shuffle=True, seed=config.seed),
        Loader(blocks(val, length), config.batch_size),
        vocabularies={"tokens": vocabulary},
    )


def encoded(name: str) -> tuple[list[Tensor], Vocabulary]:
    """Return the ids of the training and the validation text, (T,) each, and the vocabulary of the first."""
    text = load(name)
    cut = int(0.9 * len(text))
    vocabulary = Vocabulary.build(text[:cut], reserved=())
    ids = torch.tensor(vocabulary.encode(text))
    return [ids[:cut], ids[cut:]], vocabulary


def load(name: str) -> str:
    """Return the whole text, its lines ended by line feeds as published, whatever git on Windows has made of them."""
    if name not in SOURCES:
        raise UserError(f"--data {name}: this recipe's function loads Shakespeare; there are {', '.join(SOURCES)}")
    return read_text(sources.get(name, SOURCES[name]) / "input.txt").replace("\r\n", "\n")
