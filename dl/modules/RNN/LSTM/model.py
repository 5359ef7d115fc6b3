"""Long short-term memory.

"Long Short-Term Memory", Sepp Hochreiter & Jurgen Schmidhuber, 1997, https://doi.org/10.1162/neco.1997.9.8.1735: a cell
that adds to its memory instead of overwriting it, so that errors flow back through it undiminished, with gates that open
and close it. With the forget gate of Gers, Schmidhuber & Cummins 2000, https://doi.org/10.1162/089976600300015015.

One step of a layer, as `nn.LSTM` computes it, from the input x, the state h and the cell c; * is elementwise, and
test_model.py has it written out:

    i = sigmoid(W_i x + b_i + U_i h + d_i)    input gate
    f = sigmoid(W_f x + b_f + U_f h + d_f)    forget gate
    g = tanh(W_g x + b_g + U_g h + d_g)       input of the cell
    o = sigmoid(W_o x + b_o + U_o h + d_o)    output gate
    c' = f * c + i * g
    h' = o * tanh(c')

`weight_ih_l0` of the first layer is W_i, W_f, W_g and W_o, one below the other; `weight_hh_l0`, `bias_ih_l0` and
`bias_hh_l0` are the U, b and d.

Presets of language models:
- "zaremba_small", "zaremba_medium", "zaremba_large": Zaremba, Sutskever & Vinyals 2014, https://arxiv.org/abs/1409.2329,
  section 4.1, for the 10,000 words of the Penn Treebank. Dropout acts between layers, never between time steps.
- "word", "char": ours, for a CPU; "char_wide" has as many parameters as the "char" of the models in ../../GPT.

AWD-LSTM is in ../AWDLSTM.

Deviations: each sum has two biases, as in cuDNN and `nn.LSTM`.
"""

from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from dl.modules.RNN.softmax_output import AdaptiveSoftmax, SoftmaxOutput

# B batch, T tokens, C width of the state, V vocabulary

State = list[Tensor]  # h and c of all layers, an example a row: (B, layers, C) each


class Output(NamedTuple):
    """What a language model returns for its tokens."""

    scores: Tensor  # logits of the next token (B, T, V); with targets, their log-probabilities (B, T)
    state: State  # after the last token
    hidden: Tensor  # (B, T, C), of the last layer
    dropped: Tensor  # the same after dropout, from which the scores are computed


class LSTMLanguageModel(nn.Module):
    """Language model: embedding, LSTM layers c' = f * c + i * g, h' = o * tanh(c'), scores of the next token.

    Args:
        dim: width of the embeddings.
        hidden_dim: width of the state; default `dim`.
        depth: number of layers.
        dropout: of the embeddings, between layers and of the last layer.
        tied: the output layer has the embeddings as its weights (Press & Wolf 2016, https://arxiv.org/abs/1608.05859).
        cutoffs: of an `AdaptiveSoftmax`, for large vocabularies; none: a full softmax.
        init_bound: all weights start uniform within it; default: see `init_weights`.

    forward: tokens (B, T) -> `Output`. Raises `ValueError` for `tied` with a state of another width or with `cutoffs`.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        hidden_dim: int | None = None,
        depth: int = 1,
        dropout: float = 0.0,
        tied: bool = False,
        cutoffs: Sequence[int] = (),
        init_bound: float | None = None,
    ) -> None:
        super().__init__()
        hidden_dim = hidden_dim or dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = nn.LSTM(dim, hidden_dim, depth, dropout=dropout if depth > 1 else 0.0, batch_first=True)
        if cutoffs:
            self.output = AdaptiveSoftmax(hidden_dim, vocab_size, cutoffs)
        else:
            self.output = SoftmaxOutput(hidden_dim, vocab_size)
        if tied:
            if cutoffs or hidden_dim != dim:
                raise ValueError(f"tied weights need a full softmax and one width; got {dim}, {hidden_dim}, {cutoffs}")
            self.output.weight = self.embedding.weight
        self.init_weights(init_bound)

    def init_weights(self, bound: float | None) -> None:
        """Draw all weights uniform within +-bound, if there is one (Zaremba et al., section 4.1).

        Else draw embeddings uniform within +-0.1, as in https://github.com/pytorch/examples, word_language_model; other layers
        as torch's, uniform within +-1 / sqrt(width).
        """
        for parameter in self.parameters() if bound else [self.embedding.weight]:
            nn.init.uniform_(parameter, -(bound or 0.1), bound or 0.1)

    def forward(self, tokens: Tensor, state: State | None = None, targets: Tensor | None = None) -> Output:
        """Score the next tokens, from an earlier `Output`'s `state` or zeros; with `targets` (B, T), the targets alone."""
        x = self.dropout(self.embedding(tokens))  # (B, T) -> (B, T, dim)
        before = None if state is None else tuple(part.transpose(0, 1).contiguous() for part in state)  # (layers, B, C) each
        hidden, last = self.recurrent(x, before)  # (B, T, C)
        dropped = self.dropout(hidden)
        return Output(self.output(dropped, targets), [part.transpose(0, 1) for part in last], hidden, dropped)


PRESETS: dict[str, dict[str, Any]] = {
    "word": {"vocab_size": 33_278, "dim": 256, "hidden_dim": 256, "dropout": 0.2, "cutoffs": (2000, 10_000)},
    "char": {"vocab_size": 65, "dim": 64, "hidden_dim": 256},
    "char_wide": {"vocab_size": 65, "dim": 128, "hidden_dim": 384},
    "zaremba_small": {"vocab_size": 10_000, "dim": 200, "depth": 2, "init_bound": 0.1},
    "zaremba_medium": {"vocab_size": 10_000, "dim": 650, "depth": 2, "dropout": 0.5, "init_bound": 0.05},
    "zaremba_large": {"vocab_size": 10_000, "dim": 1500, "depth": 2, "dropout": 0.65, "init_bound": 0.04},
    "tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 8, "depth": 2},
}


def build(preset: str = "word", **overrides: Any) -> LSTMLanguageModel:
    """Return an LSTM by the name of its preset; `overrides` are arguments of `LSTMLanguageModel`."""
    return LSTMLanguageModel(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
