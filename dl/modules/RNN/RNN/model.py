"""Recurrent language model.

"Recurrent neural network based language model", Tomas Mikolov, Martin Karafiat, Lukas Burget, Jan Cernocky & Sanjeev
Khudanpur, 2010, https://www.isca-archive.org/interspeech_2010/mikolov10_interspeech.html: a network that reads a text word
by word, keeps a state, and predicts the next word from it. The network is that of Elman, "Finding Structure in Time", 1990,
https://doi.org/10.1207/s15516709cog1402_1.

One step of a layer, as `nn.RNN` computes it, from the input x and the state h; test_model.py has it written out:

    h' = tanh(W x + b + U h + d)

`weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0` and `bias_hh_l0` of the first layer are W, U, b and d. h' is the input of the
next layer, and the scores of the next word are V h' + e, those of the last layer.

Presets "char" and "word" are ours, for a CPU: characters of Shakespeare, words of WikiText-2.

Deviations: tanh in place of the paper's sigmoid; a word is embedded first, several layers may be stacked, with dropout
between them (Zaremba, Sutskever & Vinyals 2014, https://arxiv.org/abs/1409.2329: never between
time steps); rare words get an adaptive softmax instead of sharing one probability.
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


class RNNLanguageModel(nn.Module):
    """Language model: embedding, recurrent layers h' = tanh(W x + b + U h + d), scores of the next token V h' + e.

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
        self.recurrent = nn.RNN(dim, hidden_dim, depth, dropout=dropout if depth > 1 else 0.0, batch_first=True)
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
    "word": {"vocab_size": 33_278, "dim": 256, "hidden_dim": 512, "dropout": 0.2, "cutoffs": (2000, 10_000)},
    "char": {"vocab_size": 65, "dim": 64, "hidden_dim": 512},
    "tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 8, "depth": 2},
}


def build(preset: str = "word", **overrides: Any) -> RNNLanguageModel:
    """Return a simple recurrent network by the name of its preset; `overrides` are arguments of `RNNLanguageModel`."""
    return RNNLanguageModel(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
