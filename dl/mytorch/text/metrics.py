"""Metrics of texts: perplexity, BLEU."""

import math
from collections import Counter
from typing import Sequence

import torch

from dl.mytorch.metrics import Mean, Metric


class Perplexity(Mean):
    """exp of the mean loss per token: `outputs["loss"]` is a mean over `outputs["count"]` tokens."""

    def __init__(self) -> None:
        super().__init__("loss", "count")

    def formula(self, *sums: float) -> float:
        return torch.tensor(super().formula(*sums), dtype=torch.float64).exp().item()  # math.exp fails on large ones


class BLEU(Metric):
    """BLEU of a corpus (Papineni, Roukos, Ward & Zhu 2002, https://aclanthology.org/P02-1040), in [0, 1]; it rises.

    The geometric mean of the precisions of n-grams up to `max_n`, times a penalty when all hypotheses together are shorter
    than their references: all counts are summed over the corpus before anything is divided (sections 2.1.1, 2.2.2, 2.3).
    0 when for some n no n-gram is right. No smoothing, and no tokenisation: both sides are lists of tokens.

    `outputs["hypotheses"]`: list of lists of tokens (words or ids); `outputs["references"]`: for each hypothesis the
    list of its references, one or more.
    """

    def __init__(self, max_n: int = 4) -> None:
        self.max_n, self.num_sums = max_n, 2 * max_n + 2  # right and all n-grams for each n; lengths
        super().__init__()

    def update(self, outputs: dict[str, list]) -> None:
        """Raise `ValueError` when there are not as many lists of references as hypotheses, or one is empty."""
        hypotheses, references = outputs["hypotheses"], outputs["references"]
        if len(hypotheses) != len(references) or not all(references):
            raise ValueError(f"{len(hypotheses)} hypotheses need a list of references each, none empty; got {len(references)}")
        for hypothesis, several in zip(hypotheses, references):
            counts = [_right_ngrams(hypothesis, several, n) for n in range(1, self.max_n + 1)]
            counts += [max(len(hypothesis) - n + 1, 0) for n in range(1, self.max_n + 1)]
            # Section 2.2.2: the reference of the nearest length; of two that are as near, the shorter.
            nearest = min((abs(len(reference) - len(hypothesis)), len(reference)) for reference in several)[1]
            self.add(*counts, len(hypothesis), nearest)

    def formula(self, *sums: float) -> float:
        right, found, (length, wanted) = sums[: self.max_n], sums[self.max_n : -2], sums[-2:]
        if not all(right):
            return 0.0 if wanted else math.nan
        precision = sum(math.log(r / f) for r, f in zip(right, found)) / self.max_n
        return math.exp(min(0.0, 1 - wanted / length) + precision)


class BLEUError(BLEU):
    """1 - BLEU: what falls when translations get better."""

    def formula(self, *sums: float) -> float:
        return 1 - super().formula(*sums)


def _ngrams(tokens: Sequence, n: int) -> Counter:
    return Counter(zip(*(tokens[i:] for i in range(n))))


def _right_ngrams(hypothesis: Sequence, references: Sequence[Sequence], n: int) -> int:
    """N-grams of the hypothesis that are in a reference, each counted at most as often as there (clipped)."""
    allowed = Counter()
    for reference in references:
        allowed |= _ngrams(reference, n)  # the larger count
    return (_ngrams(hypothesis, n) & allowed).total()  # the smaller count


def sentence_bleu(hypothesis: Sequence, reference: Sequence, max_n: int = 2) -> float:
    """Return the BLEU of the d2l book (section 10.7.6) for one short sentence: another number than `BLEU`.

    The precision of n-grams has the exponent 1/2^n instead of 1/max_n, and n ends at the length of the hypothesis.
    """
    if not hypothesis:
        return 0.0
    score = math.exp(min(0.0, 1 - len(reference) / len(hypothesis)))
    for n in range(1, min(max_n, len(hypothesis)) + 1):
        score *= (_right_ngrams(hypothesis, [reference], n) / (len(hypothesis) - n + 1)) ** 0.5**n
    return score
