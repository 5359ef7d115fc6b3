"""Tokens to numbers and back."""

from collections import Counter
from pathlib import Path
from typing import Iterable, Sequence

from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.distributed import is_main
from dl.mytorch.files import read_json, verify, write_json, write_recorded_json

UNKNOWN, PADDING, BEGIN, END = "<unk>", "<pad>", "<bos>", "<eos>"


class Vocabulary:
    """Tokens by number: `vocabulary[token]` is an id, `vocabulary.tokens[id]` a token.

    The id is the place in `tokens`. With "<unk>" among them every other token has its id; without, there are no others.
    Raises `ValueError` for a token that is there twice.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        if len(self.ids) < len(self.tokens):
            twice = next(token for token, count in Counter(self.tokens).items() if count > 1)
            raise ValueError(f"a vocabulary holds each token once; {twice!r} is there twice")

    @classmethod
    def build(
        cls, tokens: Iterable[str], reserved: Sequence[str] = (UNKNOWN,), min_count: int = 1, max_size: int | None = None
    ) -> "Vocabulary":
        """Return the `reserved` tokens, in their order, then those of the training text, the most frequent first.

        Tokens of one frequency are in alphabetical order, so that the order of the text plays no part. A reserved token
        that the text holds as well, as WikiText does "<unk>", is the same token.

        Args:
            min_count: tokens that are rarer are left out.
            max_size: of the whole vocabulary, with the reserved tokens.
        """
        counts = Counter(tokens)
        if not counts:
            raise UserError("a vocabulary cannot be made of no text")
        if max_size is not None and max_size < len(reserved):
            raise ValueError(f"a vocabulary of {max_size} has no room for {len(reserved)} reserved tokens")
        found = sorted(token for token, count in counts.items() if count >= min_count and token not in reserved)
        found.sort(key=lambda token: -counts[token])  # keeps the alphabetical order of equals
        return cls([*reserved, *found][:max_size])

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self.ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __getitem__(self, token: str) -> int:
        return self.encode([token])[0]

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Return ids of tokens. Raises `UserError` for one that the vocabulary has no id for, not even that of "<unk>"."""
        unknown = self.ids.get(UNKNOWN)
        if unknown is not None:
            return [self.ids.get(token, unknown) for token in tokens]
        try:
            return [self.ids[token] for token in tokens]
        except KeyError as error:
            raise UserError(f"{error.args[0]!r} is not in the vocabulary, which has no {UNKNOWN} either") from None

    def decode(self, ids: Iterable[int] | Tensor) -> list[str]:
        """Return the tokens of ids. Raises `ValueError` for an unknown id."""
        ids = [int(i) for i in (ids.tolist() if isinstance(ids, Tensor) else ids)]
        wrong = [i for i in ids if not 0 <= i < len(self)]
        if wrong:
            raise ValueError(f"{wrong[0]} is no id of a vocabulary of {len(self)} tokens")
        return [self.tokens[i] for i in ids]

    def save(self, path: Path | str) -> None:
        """Write the tokens in order, as a JSON list. The file is whole or not there."""
        write_json(list(self.tokens), path)

    @classmethod
    def load(cls, path: Path | str) -> "Vocabulary":
        """What `save` wrote. Raises `UserError` when there is no such file, it was changed since, or holds anything else."""
        tokens = read_json(path, [str])
        verify(path)
        if not tokens:
            raise UserError(f"{path} holds no token")
        try:
            return cls(tokens)
        except ValueError as error:  # one is there twice
            raise UserError(f"{path}: {error}") from None

    def check_same(self, path: Path | str) -> None:
        """Raise `UserError` when the vocabulary in `path` is another: a checkpoint beside it means other words by the ids."""
        saved = Vocabulary.load(path)
        if saved != self:
            pairs = enumerate(zip(saved.tokens, self.tokens))
            differs = (f"id {i} is {there!r} there, {here!r} here" for i, (there, here) in pairs if there != here)
            first = next(differs, "the ids agree so far")
            raise UserError(f"{path} is another vocabulary: {len(saved)} tokens there, {len(self)} here; {first}")

    def keep(self, path: Path | str) -> None:
        """Save to `path`, with a checksum; where a vocabulary lies already, `check_same`. All ranks may call it."""
        if Path(path).exists():
            self.check_same(path)
        elif is_main():
            write_recorded_json(list(self.tokens), path)
