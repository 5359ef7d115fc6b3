"""Convolution over words.

"Convolutional Neural Networks for Sentence Classification", Yoon Kim, 2014, https://arxiv.org/abs/1408.5882: feature detectors
of three, four and five words slide over a sentence; the largest value of each is kept, and a linear layer classifies.

"rand" is the paper's CNN-rand: its sizes, word vectors that start at random. "small" is ours, for a CPU; "tiny" is for tests.

Deviations: none of architecture. The bound on the norms of the output's rows is set after each step, by train.py. Word vectors
that were learnt elsewhere (CNN-static, CNN-non-static, CNN-multichannel) are not here.
"""

from typing import Any, Sequence

import torch
from torch import Tensor, nn

# B batch, T tokens, E width of a word, F feature maps of a width


class TextCNN(nn.Module):
    """Section 2: words, convolutions of several widths, the largest value over time, dropout, a linear layer.

    Args:
        dim: width of the word vectors.
        widths: words that the feature detectors see at once.
        maps: detectors of each width.
        dropout: of what the linear layer is given.

    forward: tokens (B, T), padding_mask (B, T), True where a token is padding -> logits (B, num_classes). A window may reach
    over the ends of its sentence, where it sees zeros; windows of padding alone count for nothing, so a sentence has the
    same logits in every batch.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int = 2,
        dim: int = 300,
        widths: Sequence[int] = (3, 4, 5),
        maps: int = 100,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, maps, width, padding=width - 1) for width in widths)
        self.act = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(maps * len(widths), num_classes)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw word vectors uniform within +-0.25, as https://github.com/yoonkim/CNN_sentence; other layers as torch does."""
        nn.init.uniform_(self.embedding.weight, -0.25, 0.25)

    def forward(self, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        if padding_mask is None:
            padding_mask = torch.zeros_like(tokens, dtype=torch.bool)
        words = self.embedding(tokens).masked_fill(padding_mask[..., None], 0).transpose(1, 2)  # (B, T) -> (B, E, T)
        lengths = (~padding_mask).sum(1, keepdim=True)  # (B, 1)
        strongest = []
        for convolution in self.convolutions:
            features = self.act(convolution(words))  # (B, F, T + width - 1)
            places = torch.arange(features.shape[2], device=tokens.device)
            beyond = places >= lengths + convolution.kernel_size[0] - 1  # windows of padding alone
            strongest.append(features.masked_fill(beyond[:, None], 0).amax(-1))  # (B, F); no feature is below 0
        return self.output(self.dropout(torch.cat(strongest, dim=1)))  # (B, 3 F) -> (B, num_classes)


PRESETS: dict[str, dict[str, Any]] = {
    "rand": {"vocab_size": 20_000},
    "small": {"vocab_size": 20_000, "dim": 64, "maps": 64},
    "tiny": {"vocab_size": 16, "dim": 6, "widths": (2, 3), "maps": 5, "dropout": 0.0},
}


def build(preset: str = "rand", **overrides: Any) -> TextCNN:
    """Return a TextCNN by the name of its preset; `overrides` are arguments of `TextCNN`."""
    return TextCNN(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
