"""AWD-LSTM: averaged SGD, weight-dropped LSTM.

"Regularizing and Optimizing LSTM Language Models", Stephen Merity, Nitish Shirish Keskar & Richard Socher, 2017,
https://arxiv.org/abs/1708.02182: a language model of ordinary LSTM layers (the equations are in ../LSTM/model.py) in which
nearly everything is regularised: whole words, the weights from state to state, and, with one mask for all time steps, what
goes from layer to layer.

"awd" is the paper's network for the 33,278 words of WikiText-2; what the paper leaves open is from
https://github.com/salesforce/awd-lstm-lm. "char" is ours, for characters of Shakespeare on a CPU, with
less dropout; "tiny" is for tests.

Deviations: each sum has two biases, as in cuDNN and `nn.LSTM`. The parts of the paper that are no architecture (AR, TAR,
averaged SGD) are in ../task.py and ../averaging.py; chunks of a text have one length there, in the paper a random one.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dl.modules.RNN.softmax_output import SoftmaxOutput

# B batch, T tokens, C width, V vocabulary

State = list[Tensor]  # h and c of the first layer, of the second ..., an example a row: (B, width of the layer) each


class Output(NamedTuple):
    """What a language model returns for its tokens."""

    scores: Tensor  # logits of the next token (B, T, V); with targets, their log-probabilities (B, T)
    state: State  # after the last token
    hidden: Tensor  # (B, T, C), of the last layer
    dropped: Tensor  # the same after dropout, from which the scores are computed


class EmbeddingDropout(nn.Embedding):
    """Section 4.3: whole words are left out, wherever they are in the batch, and the others scaled by 1 / (1 - p)."""

    def __init__(self, vocab_size: int, dim: int, p: float) -> None:
        super().__init__(vocab_size, dim)
        self.p = p

    def forward(self, tokens: Tensor) -> Tensor:
        words = F.dropout(torch.ones_like(self.weight[:, :1]), self.p, self.training)  # (V, 1)
        return F.embedding(tokens, self.weight) * words[tokens]  # (B, T) -> (B, T, C)


class LockedDropout(nn.Module):
    """Section 4.2, variational dropout (Gal & Ghahramani 2015, https://arxiv.org/abs/1512.05287): one mask for all of time."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return x * F.dropout(torch.ones_like(x[:, :1]), self.p, self.training)  # (B, T, C) * (B, 1, C)


class WeightDrop(nn.Module):
    """Section 2: DropConnect on the weights from state to state, one mask for a whole forward pass."""

    def __init__(self, layer: nn.LSTM, p: float) -> None:
        super().__init__()
        self.layer = layer
        self.p = p

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if not (self.training and self.p):
            return self.layer(x, state)
        dropped = {"weight_hh_l0": F.dropout(self.layer.weight_hh_l0, self.p)}
        return functional_call(self.layer, dropped, (x, state))


class AWDLSTM(nn.Module):
    """Section 5: layers of `hidden_dim`, the last as wide as the embeddings, which are the output's weights as well (4.5).

    Args:
        dropout: of the last layer's output; the next four: of the embeddings' output, between layers, of words, of the
            weights from state to state.

    forward: tokens (B, T) -> `Output`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        hidden_dim: int,
        depth: int,
        dropout: float = 0.4,
        input_dropout: float = 0.65,
        hidden_dropout: float = 0.2,
        word_dropout: float = 0.1,
        weight_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        widths = [dim, *[hidden_dim] * (depth - 1), dim]
        self.embedding = EmbeddingDropout(vocab_size, dim, word_dropout)
        self.input_dropout = LockedDropout(input_dropout)
        self.hidden_dropout = LockedDropout(hidden_dropout)
        self.dropout = LockedDropout(dropout)
        self.layers = nn.ModuleList(
            WeightDrop(nn.LSTM(widths[i], widths[i + 1], batch_first=True), weight_dropout) for i in range(depth)
        )
        self.output = SoftmaxOutput(dim, vocab_size)
        self.output.weight = self.embedding.weight
        self.init_weights()

    def init_weights(self) -> None:
        """Draw embeddings uniform within +-0.1, layers within +-1 / sqrt(width); biases of words are 0. Section 5."""
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor, state: State | None = None, targets: Tensor | None = None) -> Output:
        """Score the next tokens, from an earlier `Output`'s `state` or zeros; with `targets` (B, T), the targets alone."""
        x = self.input_dropout(self.embedding(tokens))  # (B, T) -> (B, T, C)
        after: State = []
        hidden = x
        for i, layer in enumerate(self.layers):
            before = tuple(part[None].contiguous() for part in state[2 * i : 2 * i + 2]) if state else None  # (1, B, width)
            hidden, last = layer(x, before)
            after += [part[0] for part in last]
            x = self.hidden_dropout(hidden) if i + 1 < len(self.layers) else self.dropout(hidden)
        return Output(self.output(x, targets), after, hidden, x)


PRESETS: dict[str, dict[str, Any]] = {
    "awd": {"vocab_size": 33_278, "dim": 400, "hidden_dim": 1150, "depth": 3},
    "char": {
        **{"vocab_size": 65, "dim": 128, "hidden_dim": 192, "depth": 3, "dropout": 0.1},
        **{"input_dropout": 0.1, "hidden_dropout": 0.1, "word_dropout": 0.0, "weight_dropout": 0.2},
    },
    "tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 9, "depth": 3},
}


def build(preset: str = "awd", **overrides: Any) -> AWDLSTM:
    """Return an AWD-LSTM by the name of its preset; `overrides` are arguments of `AWDLSTM`."""
    return AWDLSTM(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
