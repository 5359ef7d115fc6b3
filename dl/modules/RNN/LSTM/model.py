"""Long short-term memory.

"Long Short-Term Memory", Sepp Hochreiter & Jurgen Schmidhuber, 1997, https://doi.org/10.1162/neco.1997.9.8.1735: a cell
that adds to its memory instead of writing it anew, so that errors flow back through it undiminished, with gates that open
and close it. With the forget gate of Gers, Schmidhuber & Cummins 2000, https://doi.org/10.1162/089976600300015015.

    i, f, o = sigmoid(W x + U h)    g = tanh(W x + U h)    c' = f * c + i * g    h' = o * tanh(c')

Presets of language models:
- "zaremba_small", "zaremba_medium", "zaremba_large": Zaremba, Sutskever & Vinyals 2014, https://arxiv.org/abs/1409.2329,
  section 4.1, for the 10,000 words of the Penn Treebank.
- "awd": AWD-LSTM (`AWDLSTM`), for the 33,278 words of WikiText-2. Merity, Keskar & Socher 2017,
  https://arxiv.org/abs/1708.02182; what the paper leaves open is from https://github.com/salesforce/awd-lstm-lm.
- "word", "char": ours, for a CPU.

Deviations: each sum has two biases, as in cuDNN and `nn.LSTM`. The parts of AWD-LSTM that are no architecture (AR, TAR,
averaged SGD) are in ../task.py and ../averaging.py; stretches of a text have one length there, in the paper a random one.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dl.modules.RNN.RNN.model import Output, RecurrentLanguageModel, State
from dl.modules.RNN.softmax_output import Softmax

# B batch, T tokens, C width, V vocabulary


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

    forward: as `RecurrentLanguageModel`; the state has two tensors (B, width) for each layer.
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
        self.output = Softmax(dim, vocab_size)
        self.output.weight = self.embedding.weight
        self.init_weights()

    def init_weights(self) -> None:
        """Section 5: embeddings uniform within +-0.1, layers within +-1 / sqrt(width), as torch has it; no bias of a word."""
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)

    def forward(self, tokens: Tensor, state: State | None = None, targets: Tensor | None = None) -> Output:
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
    "word": {"vocab_size": 33_278, "dim": 256, "hidden_dim": 256, "dropout": 0.2, "cutoffs": (2000, 10_000)},
    "char": {"vocab_size": 65, "dim": 64, "hidden_dim": 256},
    "zaremba_small": {"vocab_size": 10_000, "dim": 200, "depth": 2, "init_bound": 0.1},
    "zaremba_medium": {"vocab_size": 10_000, "dim": 650, "depth": 2, "dropout": 0.5, "init_bound": 0.05},
    "zaremba_large": {"vocab_size": 10_000, "dim": 1500, "depth": 2, "dropout": 0.65, "init_bound": 0.04},
    "awd": {"vocab_size": 33_278, "dim": 400, "hidden_dim": 1150, "depth": 3},
    "awd_tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 9, "depth": 3},
    "tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 8, "depth": 2},
}


def build(preset: str = "word", **overrides: Any) -> RecurrentLanguageModel | AWDLSTM:
    """An LSTM by the name of its preset; `overrides` are arguments of `AWDLSTM` for "awd", else of `RecurrentLanguageModel`."""
    options = {**PRESETS[preset], **overrides}
    return AWDLSTM(**options) if preset.startswith("awd") else RecurrentLanguageModel(nn.LSTM, **options)
