"""Texts as ids: the bytes that a transformer reads, or hashed pieces of words for the bag of embeddings.

Neither has a vocabulary to learn or to keep. Most words of a small set occur once, so that words cannot be the unit.
"""

import functools
import zlib
from typing import Callable, Sequence

import torch
from torch import Tensor, nn

from dl.modules.Multimodal.CLIP.model import TextBag, TextTransformer
from dl.mytorch.config import UserError

START, END = 256, 257  # after the 256 bytes
LONGEST = 4  # characters of a piece; words longer than this are pieces, too
SEPARATOR = ", "  # between a label and its tags: no piece goes across

Tokenizer = Callable[[str], list[int]]


def tokenizer(text_tower: nn.Module) -> Tokenizer:
    """Return the function that makes ids of a text for a tower. Raises `UserError` for one that reads other ids."""
    if isinstance(text_tower, TextBag):
        return functools.partial(pieces, buckets=text_tower.embedding.num_embeddings)
    if isinstance(text_tower, TextTransformer) and text_tower.eos_id == END:
        return functools.partial(byte_ids, max_length=len(text_tower.position_embedding))
    raise UserError("this network reads the paper's byte-pair ids, whose vocabulary is not here: give it ids of your own")


def padded(texts: Sequence[Sequence[int]]) -> Tensor:
    """Return ids (N, T) of texts, T those of the longest, 0 after the others' end."""
    return nn.utils.rnn.pad_sequence([torch.tensor(ids) for ids in texts], batch_first=True)


def byte_ids(text: str, max_length: int) -> list[int]:
    """Return START, the bytes of the text in UTF-8, END: at most `max_length`, the end is always there."""
    return [START, *text.encode()[: max_length - 2], END]


def pieces(text: str, buckets: int) -> list[int]:
    """Return the pieces of a text as numbers from 1 to `buckets` - 1, each as often as it occurs; some share a number.

    Pieces are the 1 to LONGEST neighbouring characters of a word, its beginning and end among them, and the word itself.
    """
    return [number for phrase in text.lower().split(SEPARATOR) for number in _pieces(phrase, buckets)]


@functools.lru_cache(maxsize=2**16)
def _pieces(phrase: str, buckets: int) -> tuple[int, ...]:
    found = []
    for word in phrase.split():
        marked = f"<{word}>"
        found += [marked[i : i + n] for n in range(1, LONGEST + 1) for i in range(len(marked) - n + 1)]
        found += [marked] if len(marked) > LONGEST else []
    return tuple(zlib.crc32(piece.encode()) % (buckets - 1) + 1 for piece in found if piece not in ("<", ">"))
