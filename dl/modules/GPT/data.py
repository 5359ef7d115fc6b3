"""Texts as tokens, for the recipes: characters of Shakespeare, word pieces of WikiText-2, or a folder of word pieces."""

from pathlib import Path

import torch

from dl.modules.GPT.BPE.tokenizer import BPE
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Loader, Splits, shakespeare
from dl.mytorch.data.sequences import blocks, windows
from dl.mytorch.data.text.shakespeare import SOURCES
from dl.mytorch.data.text.tokens import map_tokens, shuffled_chunks
from dl.mytorch.data.text.wikitext2 import text
from dl.mytorch.distributed import is_main
from dl.mytorch.files import verify

MOST_VALIDATION = 2**20  # tokens
PART = 2**24  # tokens that are looked through at once
WIKITEXT2_PIECES = 4000


def text_splits(config: TrainConfig, length: int) -> Splits:
    """Return the text that `config.data` names, cut into `length` tokens. Raises `UserError` for an unknown name."""
    if config.data in SOURCES:
        return shakespeare(config, length)
    if config.data == "wikitext2":
        return wikitext2_splits(config, length)
    if folder := config.data_path("folder:"):
        return folder_splits(config, folder, length)
    raise UserError(f"--data {config.data}: there are {', '.join(SOURCES)}, wikitext2 and folder:PATH")


def wikitext2_splits(config: TrainConfig, length: int) -> Splits:
    """Return WikiText-2 as one text without end marks, in word pieces learnt from its training part.

    Each piece of validation and test but the first is predicted once, after a quarter of `length` at least.
    """
    bpe = BPE.train(text("train"), WIKITEXT2_PIECES)
    train, val, test = (torch.tensor(bpe.encode(text(split))) for split in ("train", "valid", "test"))
    return Splits(
        Loader(windows(train, length), config.batch_size, shuffle=True, seed=config.seed),
        *(Loader(blocks(ids, length, context=length // 4), config.batch_size) for ids in (val, test)),
        vocabularies={"tokens": bpe},
    )


def folder_splits(config: TrainConfig, folder: Path, length: int) -> Splits:
    """The folder that `python -m dl.modules.GPT.BPE.prepare` makes: tokens.bin, which may be larger than memory, and its BPE.

    The last tenth validates, but at most 2^20 tokens, so that it fits into memory; nothing is left to test.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; `python -m dl.modules.GPT.BPE.prepare {folder} TEXT` makes it of text files")
    bpe, ids = BPE.load(folder), map_tokens(folder / "tokens.bin")
    if not verify(folder / "tokens.bin") and is_main():
        print(f"{folder / 'tokens.bin'}: written before checksums: not verified")
    cut = len(ids) - min(len(ids) // 10, MOST_VALIDATION)
    validation = torch.from_numpy(ids[cut:].astype("int64"))
    for start in range(0, len(ids), PART):
        largest = int(map_tokens(folder / "tokens.bin")[start : start + PART].max())  # mapped again: pages may leave memory
        if largest >= len(bpe):
            raise UserError(f"{folder}: tokens.bin has the id {largest}, the vocabulary only {len(bpe)}")
    return Splits(
        shuffled_chunks(folder / "tokens.bin", length, config.batch_size, end=cut, seed=config.seed),
        Loader(blocks(validation, length), config.batch_size),
        vocabularies={"tokens": bpe},
    )
