"""Gated recurrent unit.

"Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", Kyunghyun Cho, Bart van
Merrienboer, Caglar Gulcehre, Dzmitry Bahdanau, Fethi Bougares, Holger Schwenk & Yoshua Bengio, 2014,
https://arxiv.org/abs/1406.1078, section 2.3: the reset gate lets a unit forget its past, the update gate lets it keep its
state. Here as a language model; the encoder and decoder of the paper are those of `Seq2Seq` and `BahdanauAttention`.

One step of a layer, as `nn.GRU` computes it, from the input x and the state h; * is elementwise, and test_model.py has it
written out:

    r = sigmoid(W_r x + b_r + U_r h + d_r)        reset gate
    z = sigmoid(W_z x + b_z + U_z h + d_z)        update gate
    n = tanh(W_n x + b_n + r * (U_n h + d_n))     new state proposed
    h' = z * h + (1 - z) * n

`weight_ih_l0` of the first layer is W_r, W_z and W_n, one below the other; `weight_hh_l0`, `bias_ih_l0` and `bias_hh_l0`
are the U, b and d.

Deviations: as `nn.GRU` and cuDNN have it, the reset gate acts after the matrix, r * (U h), in the paper before it, U (r * h);
each sum has its biases. "char" and "word" are ours, for a CPU.
"""

from typing import Any, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from dl.modules.RNN.softmax_output import AdaptiveSoftmax, SoftmaxOutput

# B batch, T tokens, C width of the state, V vocabulary

State = list[Tensor]  # h of all layers, an example a row: (B, layers, C)


class Output(NamedTuple):
    """What a language model returns for its tokens."""

    scores: Tensor  # logits of the next token (B, T, V); with targets, their log-probabilities (B, T)
    state: State  # after the last token
    hidden: Tensor  # (B, T, C), of the last layer
    dropped: Tensor  # the same after dropout, from which the scores are computed


class GRULanguageModel(nn.Module):
    """Language model: embedding, GRU layers h' = z * h + (1 - z) * n, scores of the next token.

    Args:
        dim: width of the embeddings.
        hidden_dim: width of the state; default `dim`.
        depth: number of layers.
        dropout: of the embeddings, between layers and of the last layer.
        tied: the output layer has the embeddings as its weights (Press & Wolf 2016, https://arxiv.org/abs/1608.05859).
        cutoffs: of an `AdaptiveSoftmax`, for large vocabularies; none: a full softmax.

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
    ) -> None:
        super().__init__()
        hidden_dim = hidden_dim or dim
        self.embedding = nn.Embedding(vocab_size, dim)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = nn.GRU(dim, hidden_dim, depth, dropout=dropout if depth > 1 else 0.0, batch_first=True)
        if cutoffs:
            self.output = AdaptiveSoftmax(hidden_dim, vocab_size, cutoffs)
        else:
            self.output = SoftmaxOutput(hidden_dim, vocab_size)
        if tied:
            if cutoffs or hidden_dim != dim:
                raise ValueError(f"tied weights need a full softmax and one width; got {dim}, {hidden_dim}, {cutoffs}")
            self.output.weight = self.embedding.weight
        self.init_weights()

    def init_weights(self) -> None:
        """Draw embeddings uniform within +-0.1, as in https://github.com/pytorch/examples, word_language_model.

        Other layers stay as torch draws them, uniform within +-1 / sqrt(width).
        """
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor, state: State | None = None, targets: Tensor | None = None) -> Output:
        """Score the next tokens, from an earlier `Output`'s `state` or zeros; with `targets` (B, T), the targets alone."""
        x = self.dropout(self.embedding(tokens))  # (B, T) -> (B, T, dim)
        before = None if state is None else state[0].transpose(0, 1).contiguous()  # (B, layers, C) -> (layers, B, C)
        hidden, last = self.recurrent(x, before)  # (B, T, C)
        dropped = self.dropout(hidden)
        return Output(self.output(dropped, targets), [last.transpose(0, 1)], hidden, dropped)


PRESETS: dict[str, dict[str, Any]] = {
    "word": {"vocab_size": 33_278, "dim": 256, "hidden_dim": 320, "dropout": 0.2, "cutoffs": (2000, 10_000)},
    "char": {"vocab_size": 65, "dim": 64, "hidden_dim": 320},
    "tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 8, "depth": 2},
}


def build(preset: str = "word", **overrides: Any) -> GRULanguageModel:
    """Return a GRU by the name of its preset; `overrides` are arguments of `GRULanguageModel`."""
    return GRULanguageModel(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
