"""Byte-level byte-pair encoding.

"Neural Machine Translation of Rare Words with Subword Units", Rico Sennrich, Barry Haddow & Alexandra Birch, 2015,
https://arxiv.org/abs/1508.07909, on bytes, with the words of "Language Models are Unsupervised Multitask Learners", Alec
Radford et al. 2019, section 2.2: any text has ids, there is no unknown token.

Deviations: letters and numbers are those of the running Python's Unicode (`unicodedata`), where other programs have a newer
or an older one.
"""

import functools
import heapq
import re
import sys
import unicodedata
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Iterable, Sequence

from dl.modules.GPT.BPE.learning import Pair, most_frequent_pairs
from dl.mytorch.config import UserError
from dl.mytorch.data.text.textfiles import read_lines
from dl.mytorch.distributed import is_main
from dl.mytorch.files import atomic_write, read_json, verify, write_json, write_recorded_json

END_OF_TEXT = "<|endoftext|>"
# Where ids and merges are published; the last is one file for both.
FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("tokenizer.json", "its merges"))
MOST_BYTES = 2**26  # of all tokens together, 200 times GPT-2's: merges that double would need all memory


@functools.cache
def word_pattern() -> re.Pattern[str]:
    """Return what matches each word of a text in turn. Made when first asked for: it looks at each character of Unicode.

    https://github.com/openai/gpt-2, src/encoder.py: endings; words, numbers, other signs, with a space before them; spaces.
    """
    # The first letter of each character's Unicode category: L for letters, N for numbers.
    kinds = "".join([unicodedata.category(chr(i))[0] for i in range(sys.maxunicode + 1)])
    letter, number = (
        "".join(f"\\U{found.start():08x}-\\U{found.end() - 1:08x}" for found in re.finditer(f"{kind}+", kinds)) for kind in "LN"
    )  # as ranges inside a [] of `re`, which has no \p{L}
    space = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's; \s of `re` has four more
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+|[{space}]+(?![^{space}])|[{space}]+"
    )


# GPT-2's files show each byte as one visible character, and its first 256 ids are the bytes in the order of these.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTES = [*_VISIBLE, *(byte for byte in range(256) if byte not in _VISIBLE)]  # byte by id
SHOWN = {byte: chr(byte if i < len(_VISIBLE) else 256 + i - len(_VISIBLE)) for i, byte in enumerate(BYTES)}
HIDDEN = {character: byte for byte, character in SHOWN.items()}

# Halves of UTF-16 pairs, but for U+DC80 to U+DCFF alone, which stand for bytes that are no UTF-8 ("surrogateescape").
_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]?|[\udc00-\udc7f\udd00-\udfff]")


class BPE:
    """Texts to ids and back. Ids: the 256 bytes, one for each merge, in its order, the special tokens.

    Args:
        merges: pairs of ids that become one, the id that comes next.
        special: tokens with ids that no text is encoded to, written as <|name|>; one that is named twice has one id.

    Raises `ValueError` for a merge of ids that are not there yet, for tokens of more than `MOST_BYTES`, and for a special token
    that is written otherwise.
    """

    def __init__(self, merges: Iterable[Pair], special: Sequence[str] = (END_OF_TEXT,)) -> None:
        self.tokens = [bytes([byte]) for byte in BYTES]  # by id
        self.merges: dict[Pair, int] = {}  # pair -> the id that it becomes
        size = 0
        for left, right in merges:
            if not (0 <= left < len(self.tokens) and 0 <= right < len(self.tokens)) or (left, right) in self.merges:
                raise ValueError(
                    f"merge {len(self.merges)} joins the ids {left} and {right}: one is undefined, or they were joined before"
                )
            size += len(self.tokens[left]) + len(self.tokens[right])
            if size > MOST_BYTES:
                raise ValueError(f"the tokens up to merge {len(self.merges)} have more than {MOST_BYTES:,} bytes together")
            self.merges[left, right] = len(self.tokens)
            self.tokens.append(self.tokens[left] + self.tokens[right])
        special = list(dict.fromkeys(special))
        for token in special:
            if not re.fullmatch(r"<\|[^|]+\|>", token):
                raise ValueError(f"special tokens are written as <|name|>; got {token!r}")
        self.special = {token: len(self.tokens) + i for i, token in enumerate(special)}
        self.tokens += [token.encode() for token in special]
        self.known: dict[str, list[int]] = {}  # ids of words that have been met

    def __len__(self) -> int:
        return len(self.tokens)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BPE) and (self.merges, self.special) == (other.merges, other.special)

    # ---- training --------------------------------------------------------------------------------------------------

    @classmethod
    def train(cls, text: str | Iterable[str], vocab_size: int, special: Sequence[str] = (END_OF_TEXT,)) -> "BPE":
        """Algorithm 1 of Sennrich et al.: the most frequent pair becomes a token, until there are `vocab_size`.

        Of pairs that are as frequent the one of lower ids comes first. Each merge looks only at the words that have its
        pair. `text` may come in parts. There are fewer tokens when no pair is left.

        Raises `UserError` for an empty text, and for a vocabulary that has no room for bytes and special tokens.
        """
        special = list(dict.fromkeys(special))
        if vocab_size < 256 + len(special):
            raise UserError(f"a vocabulary of {vocab_size} has no room for 256 bytes and {len(special)} special tokens")
        counts: Counter[str] = Counter()
        for part in [text] if isinstance(text, str) else text:
            counts.update(word_pattern().findall(_whole(part)))
        if not counts:
            raise UserError("no tokens can be learnt from an empty text")
        words = [_bytes(word) for word in counts]
        return cls(most_frequent_pairs(words, list(counts.values()), vocab_size - 256 - len(special)), special)

    # ---- text to ids and back --------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Return ids of a text. Bytes that are no UTF-8 may come as `bytes.decode(errors="surrogateescape")` makes them.

        Two halves of a UTF-16 pair are their character; one alone, as JSON may have it, is U+FFFD.
        """
        ids: list[int] = []
        known = self.known
        for word in word_pattern().findall(_whole(text)):
            found = known.get(word)
            if found is None:
                found = self._merged(_bytes(word))
                if len(known) >= 2**18:
                    known.clear()
                if len(word) <= 100:  # longer ones do not come again, and would fill the memory
                    known[word] = found
            ids += found
        return ids

    def decode(self, ids: Iterable[int], errors: str = "replace") -> str:
        """Return the text of ids. What is no UTF-8, as half of a character, is replaced; see `bytes.decode` for other `errors`.

        Raises `ValueError` for an unknown id.
        """
        parts = []
        for i in map(int, ids):
            if not 0 <= i < len(self.tokens):
                raise ValueError(f"{i} is no id of a vocabulary of {len(self)} tokens")
            parts.append(self.tokens[i])
        return b"".join(parts).decode(errors=errors)

    def _merged(self, ids: list[int]) -> list[int]:
        """Return the ids of a word's bytes, merged: the earliest merge first, from left to right. O(n log n)."""
        merges, end = self.merges, len(ids)
        after, before = list(range(1, end + 1)), list(range(-1, end - 1))  # a list that is linked both ways
        todo = [(merges[pair], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in merges]
        heapq.heapify(todo)
        while todo:
            merged, i = heapq.heappop(todo)
            j = after[i]
            if ids[i] < 0 or j == end or merges.get((ids[i], ids[j])) != merged:
                continue  # one of the two has been merged with another
            ids[i], ids[j] = merged, -1  # -1: gone
            after[i] = after[j]
            if after[j] < end:
                before[after[j]] = i
                if (pair := (merged, ids[after[j]])) in merges:
                    heapq.heappush(todo, (merges[pair], i))
            if before[i] >= 0 and (pair := (ids[before[i]], merged)) in merges:
                heapq.heappush(todo, (merges[pair], before[i]))
        return [i for i in ids if i >= 0]

    # ---- files -----------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Write vocab.json and merges.txt, as GPT-2 has them."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        shown = self.shown()
        lines = ["#version: 0.2", *(f"{shown[left]} {shown[right]}" for left, right in self.merges)]
        with atomic_write(folder / "merges.txt") as file:
            file.write("\n".join([*lines, ""]).encode())
        write_json({token: i for i, token in enumerate(shown)}, folder / "vocab.json")

    @classmethod
    def load(cls, folder: Path | str) -> "BPE":
        """Return what `save` wrote, or GPT-2's published files: vocab.json and merges.txt, or encoder.json and vocab.bpe, or
        tokenizer.json alone, as transformers 5 writes it. Lines may end as on Windows.

        Raises `UserError` when they are missing or damaged, or do not fit together.
        """
        folder = Path(folder)
        names = next((names for names in FILES if (folder / names[0]).exists()), FILES[0])
        merges: list[str | list[str]]
        if names[0] == "tokenizer.json":
            model = read_json(folder / names[0], {"model": {"vocab": {str: int}, "merges": [(str, [str])]}})["model"]
            vocabulary, merges = model["vocab"], model["merges"]
        else:
            vocabulary = read_json(folder / names[0], {str: int})
            merges = [line for line in read_lines(folder / names[1])[1:] if line]
        tokens = sorted(vocabulary, key=vocabulary.__getitem__)
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
        try:
            pairs = [tuple(vocabulary[part] for part in merge) for merge in merges]
            bpe = cls(pairs, special=tokens[256 + len(merges) :])
        except (KeyError, ValueError) as error:
            raise UserError(f"{folder}: {names[1]} and {names[0]} do not fit ({error})") from None
        for i, (own, theirs) in enumerate(zip_longest(bpe.shown(), tokens)):
            if own != theirs or vocabulary[theirs] != i:
                raise UserError(f"{folder}: by {names[1]} token {i} is {own!r}, by {names[0]} {theirs!r}")
        return bpe

    def keep(self, path: Path | str) -> None:
        """Write one file, for `BPE.read`; where one lies already, `UserError` if it is another. All ranks may call it."""
        if not Path(path).exists():
            if is_main():
                write_recorded_json({"merges": [list(pair) for pair in self.merges], "special": list(self.special)}, path)
        elif self.read(path) != self:
            raise UserError(f"{path} is another vocabulary than this one of {len(self)} tokens")

    @classmethod
    def read(cls, path: Path | str) -> "BPE":
        """Return what `keep` wrote. Raises `UserError` for a file that was changed since, or holds anything else."""
        content = read_json(path, {"merges": [[int]], "special": [str]})
        verify(path)
        try:
            return cls([(left, right) for left, right in content["merges"]], content["special"])
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error})") from None

    def shown(self) -> list[str]:
        """Return the tokens as GPT-2's files show them."""
        plain = ["".join(map(SHOWN.__getitem__, token)) for token in self.tokens[: 256 + len(self.merges)]]
        return [*plain, *self.special]


def _whole(text: str) -> str:
    """Return the text with `_HALVES` joined where there are two, else replaced by U+FFFD."""
    try:
        text.encode()  # a hundred times as fast as the search
        return text
    except UnicodeEncodeError:
        return _HALVES.sub(lambda found: found[0].encode("utf-16", "surrogatepass").decode("utf-16", "replace"), text)


_ID = {byte: i for i, byte in enumerate(BYTES)}


def _bytes(word: str) -> list[int]:
    """Return the ids of a word's bytes."""
    return [_ID[byte] for byte in word.encode(errors="surrogateescape")]
