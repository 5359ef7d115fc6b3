"""Text as the pieces of words that pretrained BERT weights know.

Wu et al. 2016, https://arxiv.org/abs/1609.08144, section 4.1, in the way of the paper's code:
https://github.com/google-research/bert#tokenization and its tokenization.py.
"""

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary
from dl.mytorch.data.text.textfiles import read_lines
from dl.mytorch.files import check, read_json

PADDING, UNKNOWN, CLS, SEP = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SETTINGS = {"do_lower_case?": bool, "strip_accents?": (bool, None), "tokenize_chinese_chars?": bool}  # tokenizer_config.json
LONGEST = 100  # letters: a longer word is unknown

# Ideographs, each of which is a word: the blocks of https://www.unicode.org/charts/ whose names begin with CJK ... Ideographs.
_IDEOGRAPHS = re.compile(
    "([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f"
    "\U0002b820-\U0002ceaf\U0002f800-\U0002fa1f])"
)


class WordPiece:
    """The pieces of a vocabulary: words from whole words, else the longest piece there is, then the longest of the rest.

    Pieces inside a word begin with "##". Raises `UserError` for a vocabulary without [PAD], [UNK], [CLS] or [SEP].

    Args:
        lowercase: "uncased": in lower case.
        strip_accents: letters without their accents; default: as `lowercase`.
        ideographs: each is a word of its own.
    """

    def __init__(
        self, vocabulary: Vocabulary, lowercase: bool = True, strip_accents: bool | None = None, ideographs: bool = True
    ) -> None:
        for token in (PADDING, UNKNOWN, CLS, SEP):
            if token not in vocabulary:
                raise UserError(f"a vocabulary of {len(vocabulary)} pieces without {token} is none of BERT's")
        self.vocabulary, self.lowercase, self.ideographs = vocabulary, lowercase, ideographs
        self.strip_accents = lowercase if strip_accents is None else strip_accents
        self.pieces = lru_cache(maxsize=100_000)(self._pieces)  # most words of a text have been there before

    @property
    def padding(self) -> int:
        """Return the id that fills up rows."""
        return self.vocabulary[PADDING]

    @classmethod
    def load(cls, folder: Path | str) -> "WordPiece":
        """From a folder of pretrained weights: vocab.txt, a piece a line, or tokenizer.json, which is all that transformers 5
        writes; and tokenizer_config.json, if it is there. Raises `UserError` for files that are damaged or of another kind.
        """
        settings, path = Path(folder, "tokenizer_config.json"), Path(folder, "vocab.txt")
        options = read_json(settings, SETTINGS) if settings.exists() else {}
        newer = path.with_name("tokenizer.json")
        if newer.exists() and not path.exists():
            path, pieces = newer, _pieces_of(newer)
        else:
            pieces = read_lines(path)
        try:
            vocabulary = Vocabulary(pieces)
        except ValueError as error:  # one is there twice
            raise UserError(f"{path}: {error}") from None
        return cls(
            vocabulary,
            lowercase=options.get("do_lower_case", True),
            strip_accents=options.get("strip_accents"),
            ideographs=options.get("tokenize_chinese_chars", True),
        )

    def tokenize(self, text: str) -> list[str]:
        """Cut a text into pieces. What looks like a special token is text like any other."""
        words = self.words(text)  # the longest ones do not reach the cache, whose memory they would fill
        return [piece for word in words for piece in (self.pieces(word) if len(word) <= LONGEST else (UNKNOWN,))]

    def encode(self, text: str, length: int = 512) -> Tensor:
        """Return the ids (T,) of [CLS], the pieces of a text, [SEP]. What exceeds `length` is cut off before [SEP]."""
        return torch.tensor(self.vocabulary.encode([CLS, *self.tokenize(text)[: length - 2], SEP]))

    def words(self, text: str) -> list[str]:
        """Return words and punctuation marks, each of these by itself."""
        text = "".join(" " if _is_space(c) else c for c in text if _is_space(c) or not _is_control(c))
        if self.ideographs:
            text = _IDEOGRAPHS.sub(r" \1 ", text)
        if self.strip_accents:
            text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        if self.lowercase:
            text = text.lower()
        return "".join(f" {c} " if _is_punctuation(c) else c for c in text).split()

    def _pieces(self, word: str) -> tuple[str, ...]:
        found: list[str] = []
        start = 0
        while start < len(word):
            candidates = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
            piece = next((piece for piece in candidates if piece in self.vocabulary), None)
            if piece is None:
                return (UNKNOWN,)
            start += len(piece) - (2 if start else 0)
            found.append(piece)
        return tuple(found)


def _pieces_of(path: Path) -> list[str]:
    """Return the pieces in a tokenizer.json, which has much else."""
    model = read_json(path, {"model": {"type?": object, "vocab?": object}})["model"]
    ids = model.get("vocab")
    if model.get("type") != "WordPiece" or sorted(check(ids, {str: int}, str(path), "vocab").values()) != list(range(len(ids))):
        raise UserError(f"{path} holds no pieces of words (WordPiece) with the ids 0, 1, 2 ...")
    return sorted(ids, key=ids.__getitem__)


def _is_space(character: str) -> bool:
    return character in "\t\n\r" or unicodedata.category(character).startswith("Z")


def _is_control(character: str) -> bool:
    """Return whether a character shows nothing, or is the one for what could not be decoded.

    Those for private use (Co) are among them as in transformers; the paper's code keeps these.
    """
    return character == "\ufffd" or unicodedata.category(character) in ("Cc", "Cf", "Co")


def _is_punctuation(character: str) -> bool:
    """Unicode's punctuation, and all of ASCII that is neither letter nor digit, as "$" or "^"."""
    return ("!" <= character <= "~" and not character.isalnum()) or unicodedata.category(character).startswith("P")
