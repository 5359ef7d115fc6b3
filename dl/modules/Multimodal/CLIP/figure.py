"""What a network finds: the nearest images of a name, and the nearest names of an image."""

import textwrap

import torch
from torch import Tensor

from dl.modules.Multimodal.CLIP.retrieval import wrong_before
from dl.mytorch import plot
from dl.mytorch.data import Batch
from dl.mytorch.data.images.emoji import Emoji
from dl.mytorch.fonts import drawable

ROWS, FOUND = 12, 5
GOOD, BAD = "tab:green", "0.6"


def retrieved(found: Batch, emoji: Emoji, language: str) -> Tensor:
    """Return a page (3, height, width): names with the five nearest images of the set, and the rank of the right one.

    `found` has "image" and `language` (N, E) and "groups" (N,). The names are evenly spread over the set, chosen by nothing
    else. A green frame is a right answer.
    """
    rows = torch.linspace(0, len(emoji.bases) - 1, min(ROWS, len(emoji.bases))).long()
    scores = found[language][rows] @ found["image"].T  # (R, N)
    ranks = 1 + wrong_before(found[language], found["image"], found["groups"])[rows]
    best = scores.topk(min(FOUND, scores.shape[1]), dim=1).indices
    fig = plot.figure(9.6, 0.95 * len(rows))
    names, options = drawable(emoji.labels[language][row] for row in rows.tolist())
    grid = fig.subplots(len(rows), 2 + FOUND, squeeze=False, width_ratios=[2.6, 1.25, *[1] * FOUND])
    fig.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.99, wspace=0.08, hspace=0.12)
    for line, row, name, rank, places in zip(grid, rows.tolist(), names, ranks.tolist(), best.tolist()):
        for axes in line:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].text(0.98, 0.5, textwrap.fill(name, 26), ha="right", va="center", fontsize=9, **options)
        line[1].imshow(_pixels(emoji.images[row]))
        colour = GOOD if rank <= FOUND else "black"
        line[1].text(1.02, 0.5, f"#{rank}", transform=line[1].transAxes, va="center", fontsize=8, color=colour)
        for axes, place in zip(line[2:], places):
            axes.imshow(_pixels(emoji.images[place]))
            right = bool(found["groups"][place] == found["groups"][row])
            axes.spines[:].set(visible=True, color=GOOD if right else BAD, linewidth=2.5 if right else 0.5)
    return plot.to_tensor(fig)


def _pixels(image: Tensor) -> Tensor:
    return image.permute(1, 2, 0).numpy()
