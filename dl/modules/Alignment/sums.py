"""Sums as a task whose answers can be checked: the prompt "07+35=", the answer "240.".

Both numbers of a prompt have `digits` digits. An answer is the sum's digits, units first, always one more of them than the
numbers have, then the end mark: the carry runs as the text does, and all rows have one length, so nothing is padded.
"""

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Splits, Vocabulary
from dl.mytorch.data.sequences import IGNORED

TOKENS = Vocabulary("0123456789+=.")
END = TOKENS["."]
HELD_OUT = 200  # sums that validate, and as many of the test; a tenth of all at most

# B sums, S tokens of a prompt, A tokens of an answer


class Sums:
    """All sums of two numbers below 10^digits, in three parts: "train", "val" and "test".

    The parts are the same for every seed, so that a run which begins from another is not tested on what that was trained on.
    A sum of "val" or "test" is in no other part, in neither order of its numbers.

    Raises `UserError` for more than three digits.
    """

    def __init__(self, digits: int = 2) -> None:
        if not 1 <= digits <= 3:
            raise UserError(f"sums of 1 to 3 digits are there; got {digits}")
        self.digits, self.largest = digits, 10**digits
        self.prompt_length, self.answer_length = 2 * digits + 2, digits + 2  # S and A
        unordered = torch.triu_indices(self.largest, self.largest).T  # (N, 2), a <= b
        count = min(HELD_OUT, len(unordered) // 10)
        chosen = unordered[torch.randperm(len(unordered), generator=torch.Generator().manual_seed(0))[: 2 * count]]
        self.held_out = torch.zeros(self.largest, self.largest, dtype=torch.bool)
        for a, b in (chosen.unbind(1), chosen.flip(1).unbind(1)):
            self.held_out[a, b] = True
        chosen[1::2] = chosen[1::2].flip(1)  # the larger number comes first in every second one
        self.parts = {"train": (~self.held_out).nonzero(), "val": chosen[:count], "test": chosen[count:]}

    def pairs(self, part: str) -> Tensor:
        """Return the numbers (N, 2) of a part."""
        return self.parts[part]

    def prompts(self, pairs: Tensor) -> Tensor:
        """pairs (..., 2) -> tokens (..., S)."""
        a, b = (_digits(number, self.digits).flip(-1) for number in pairs.unbind(-1))
        plus, equals = (torch.full_like(a[..., :1], TOKENS[sign]) for sign in "+=")
        return torch.cat([a, plus, b, equals], dim=-1)

    def answers(self, pairs: Tensor) -> Tensor:
        """pairs (..., 2) -> the tokens (..., A) of the right answers."""
        found = _digits(pairs.sum(-1), self.digits + 1)
        return torch.cat([found, torch.full_like(found[..., :1], END)], dim=-1)

    def right(self, pairs: Tensor, answers: Tensor) -> Tensor:
        """pairs (..., 2) and answers (..., A) -> bool (...): whether each token is the right one, the end mark too."""
        return (answers == self.answers(pairs)).all(-1)

    def supervised(self, pairs: Tensor) -> Batch:
        """pairs (B, 2) -> "tokens" (B, S + A - 1) and "targets", the same one token later, `IGNORED` in the prompt."""
        text = torch.cat([self.prompts(pairs), self.answers(pairs)], dim=-1)
        targets = text[:, 1:].clone()
        targets[:, : self.prompt_length - 1] = IGNORED
        return {"tokens": text[:, :-1], "targets": targets}

    def eased(self, pairs: Tensor) -> Tensor:
        """Return easier pairs (B, 2): row i cut to its last 1 + i mod `digits` digits, unless that is a held-out sum."""
        last = pairs % 10 ** (1 + torch.arange(len(pairs)) % self.digits)[:, None]
        return torch.where(self.held_out[last[:, 0], last[:, 1]][:, None], pairs, last)

    def splits(self, batch_size: int, seed: int, curriculum: bool = False) -> Splits:
        """Return loaders of batches with "pairs" (B, 2) and what `supervised` gives; each held-out part is one batch."""

        def train(batch: Batch, generator: torch.Generator) -> Batch:
            return evaluation({"pairs": self.eased(batch["pairs"])} if curriculum else batch, generator)

        def evaluation(batch: Batch, generator: torch.Generator) -> Batch:
            return batch | self.supervised(batch["pairs"])

        parts = (Loader({"pairs": self.pairs(part)}, HELD_OUT, transform=evaluation) for part in ("val", "test"))
        train_loader = Loader({"pairs": self.pairs("train")}, batch_size, shuffle=True, seed=seed, transform=train)
        return Splits(train_loader, *parts, vocabularies={"tokens": TOKENS})


def _digits(numbers: Tensor, count: int) -> Tensor:
    """numbers (...) -> their digits (..., count), units first. A digit's id is the digit."""
    return numbers[..., None] // 10 ** torch.arange(count, device=numbers.device) % 10
