"""What the evaluation of a classification shows: which classes are confused, and the surest mistakes."""

from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.data.loader import Batch
from dl.mytorch.distributed import all_reduce_sum


class Mistakes:
    """Counts pairs of a true and a predicted class, and keeps the images whose true class came as the greatest surprise.

    Of more classes than `most_pairs` allows, only the mistakes: the matrix would take gigabytes.
    """

    num_kept = 256
    most_pairs = 2**20

    def __init__(self) -> None:
        self.confusion: Tensor | None = None  # (classes, classes): of label i, how many are taken for j
        self.kept: Batch = {}

    def update(self, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Take a batch: images (B, C, H, W), labels (B,), logits (B, classes)."""
        classes = logits.shape[-1]
        self.classes = classes
        guesses = logits.topk(1).indices[:, 0]  # as top1_error breaks ties, which bf16 has
        if classes**2 <= self.most_pairs:
            if self.confusion is None:
                self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=labels.device)
            self.confusion.view(-1).index_add_(0, labels * classes + guesses, torch.ones_like(labels))
        surprise = F.cross_entropy(logits.float(), labels, reduction="none") * (guesses != labels)
        new = {"images": images, "labels": labels, "guesses": guesses, "surprise": surprise}
        if self.kept:
            new = {name: torch.cat([self.kept[name], new[name]]) for name in new}
        worst = new["surprise"].topk(min(self.num_kept, len(new["surprise"]))).indices
        self.kept = {name: kept[worst] for name, kept in new.items()}

    def draw(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return images (C, H, W) in [0, 1]: "confusion", "mistakes", "most_confused"; {} before any batch. All ranks call it.

        Under several ranks, the confusion matrix counts all; the examples are those of rank 0.
        """
        from dl.mytorch import plot  # imported when a run draws

        if not self.kept:
            return {}
        names = names or [str(i) for i in range(self.classes)]
        figures = {}
        if self.confusion is not None:
            confusion = all_reduce_sum(self.confusion)
            figures["confusion"] = plot.to_tensor(plot.confusion_matrix(confusion, names))
        wrong = {name: kept[self.kept["surprise"] > 0].cpu() for name, kept in self.kept.items()}
        if not len(wrong["labels"]):
            return figures
        pairs = zip(wrong["labels"].tolist(), wrong["guesses"].tolist())
        titles = [f"{names[label]}\nas {names[guess]}" for label, guess in pairs]
        figures["mistakes"] = plot.to_tensor(plot.image_grid(wrong["images"][:32], titles[:32]))
        rows = [] if self.confusion is None else _of_most_confused(confusion, wrong)
        images = torch.cat([wrong["images"], torch.zeros_like(wrong["images"][:1])])  # -1: an empty place
        titles = [*titles, ""]
        if rows:  # else none of the kept mistakes is of these pairs
            figures["most_confused"] = plot.to_tensor(plot.image_grid(images[rows], [titles[i] for i in rows]))
        return figures


def _of_most_confused(confusion: Tensor, wrong: Batch, pairs: int = 5, examples: int = 8) -> list[int]:
    """Return places in `wrong` of the most frequent (true, predicted) pairs: a row of `examples` each, filled up with -1."""
    classes = len(confusion)
    off_diagonal = confusion.clone().fill_diagonal_(0).flatten()
    rows = []
    for pair in off_diagonal.topk(min(pairs, len(off_diagonal))).indices.tolist():
        here = (wrong["labels"] * classes + wrong["guesses"] == pair).nonzero().flatten().tolist()[:examples]
        rows += (here + [-1] * (examples - len(here))) if here else []
    return rows
