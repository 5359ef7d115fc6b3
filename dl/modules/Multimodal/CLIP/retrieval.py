"""How often what belongs together is found: recall@k as an error, which falls."""

from typing import Sequence

import torch
from torch import Tensor

from dl.mytorch.data import Batch
from dl.mytorch.data.images.emoji import LANGUAGES
from dl.mytorch.gathering import all_gather
from dl.mytorch.metrics import Metric


def wrong_before(queries: Tensor, answers: Tensor, groups: Tensor) -> Tensor:
    """Return for each query (N, E) how many wrong answers (N, E) come before its first right one, (N,).

    Right are all answers of the query's group (N,): an equal image has several names. A wrong answer that is as near as the
    right one comes before it, so that a network for which all is the same finds nothing; so does what is NaN.
    """
    scores = (queries.double() @ answers.double().T).nan_to_num(nan=-torch.inf)
    right = groups[:, None] == groups
    best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return ((scores >= best) & ~right).sum(1)


class RetrievalError(Metric):
    """1 - recall@k over everything counted: the share of queries with k or more wrong answers before a right one.

    `outputs[query]` and `outputs[answer]` (B, E), `outputs["groups"]` (B,). Needs them all at once, so it keeps them.
    """

    def __init__(self, query: str, answer: str, k: int) -> None:
        super().__init__()
        self.names, self.k = (query, answer, "groups"), k

    def reset(self) -> None:
        super().reset()
        self.kept: list[tuple[Tensor, ...]] = []

    def update(self, outputs: Batch) -> None:
        self.kept.append(tuple(outputs[name].detach() for name in self.names))

    def compute(self) -> float:
        if not self.kept:
            return self.formula(0.0, 0.0)
        missed = wrong_before(*(all_gather(torch.cat(parts)) for parts in zip(*self.kept))) >= self.k
        return self.formula(missed.sum().item(), len(missed))


class MeanError(Metric):
    """The mean of several errors."""

    def __init__(self, errors: Sequence[Metric]) -> None:
        self.errors = errors
        super().__init__()

    def reset(self) -> None:
        super().reset()
        for error in self.errors:
            error.reset()

    def update(self, outputs: Batch) -> None:
        for error in self.errors:
            error.update(outputs)

    def compute(self) -> float:
        return sum(error.compute() for error in self.errors) / len(self.errors)


def table(found: Batch, categories: Sequence[str]) -> str:
    """Return recall@1 and @5 of images (N, E) among all names, and back, in each category, as lines of text."""
    ways = [way for language in LANGUAGES for way in (("image", language), (language, "image"))]
    ranks = [wrong_before(found[a], found[b], found["groups"]) for a, b in ways]
    lines = ["recall@1 / @5, %".ljust(24) + "".join(f"{a} to {b}".rjust(16) for a, b in ways)]
    for name in ["all", *sorted(set(categories))]:
        rows = torch.tensor([name in ("all", category) for category in categories])
        shares = [[100 * (rank[rows] < k).double().mean().item() for k in (1, 5)] for rank in ranks]
        lines.append(f"{name} ({int(rows.sum())})".ljust(24) + "".join(f"{a:.1f} / {b:.1f}".rjust(16) for a, b in shares))
    return "\n".join(lines)
