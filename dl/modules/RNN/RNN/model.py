"""Recurrent language model.

"Recurrent neural network based language model", Tomas Mikolov, Martin Karafiat, Lukas Burget, Jan Cernocky & Sanjeev
Khudanpur, 2010, https://www.isca-archive.org/interspeech_2010/mikolov10_interspeech.html: a network that reads a text word
by word, keeps a state, and names the next word from it. The network is that of Elman, "Finding Structure in Time", 1990,
https://doi.org/10.1207/s15516709cog1402_1.

`RecurrentLanguageModel` serves GRU and LSTM as well, which differ in the recurrent layer alone. Presets "char" and "word"
are ours, for a CPU: characters of Shakespeare, words of WikiText-2.

Deviations: tanh in place of the paper's sigmoid; a word is embedded first, several layers may lie on each other, with
dropout between them (Zaremba, Sutskever & Vinyals 2014, https://arxiv.org/abs/1409.2329: on what goes up, never on what
goes on in time); rare words get an adaptive softmax instead of sharing one probability.
"""

from typing import Any, NamedTuple, Sequence

from torch import Tensor, nn

from dl.modules.RNN.softmax_output import AdaptiveSoftmax, Softmax

# B batch, T tokens, C width of the state, V vocabulary

State = list[Tensor]  # of each layer what it goes on from, an example a row: (B, layers, C) each


class Output(NamedTuple):
    """What a language model says of its tokens."""

    scores: Tensor  # logits of the next token (B, T, V); with targets, their log-probabilities (B, T)
    state: State  # after the last token
    hidden: Tensor  # (B, T, C), of the last layer
    dropped: Tensor  # the same after dropout, which the scores are made of


class RecurrentLanguageModel(nn.Module):
    """Embedding, recurrent layers, the next word.

    Args:
        layer: `nn.RNN`, `nn.GRU` or `nn.LSTM`.
        dim: width of the embeddings.
        hidden_dim: width of the state; default `dim`.
        dropout: of the embeddings, between layers and of the last layer.
        tied: the output layer has the embeddings as its weights (Press & Wolf 2016, https://arxiv.org/abs/1608.05859).
        cutoffs: of an `AdaptiveSoftmax`, for large vocabularies; none: a full softmax.
        init_bound: all weights start uniform within it; default: see `init_weights`.

    forward: tokens (B, T) -> `Output`. Raises `ValueError` for `tied` with a state of another width or with `cutoffs`.
    """

    def __init__(
        self,
        layer: type[nn.RNNBase],
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
        self.recurrent = layer(dim, hidden_dim, depth, dropout=dropout if depth > 1 else 0.0, batch_first=True)
        self.output = AdaptiveSoftmax(hidden_dim, vocab_size, cutoffs) if cutoffs else Softmax(hidden_dim, vocab_size)
        if tied:
            if cutoffs or hidden_dim != dim:
                raise ValueError(f"tied weights need a full softmax and one width; got {dim}, {hidden_dim}, {cutoffs}")
            self.output.weight = self.embedding.weight
        self.init_weights(init_bound)

    def init_weights(self, bound: float | None) -> None:
        """With a bound, all weights uniform within +-bound (Zaremba et al., section 4.1).

        Else embeddings uniform within +-0.1, as in https://github.com/pytorch/examples, word_language_model; other layers
        as torch's, uniform within +-1 / sqrt(width).
        """
        for parameter in self.parameters() if bound else [self.embedding.weight]:
            nn.init.uniform_(parameter, -(bound or 0.1), bound or 0.1)

    def forward(self, tokens: Tensor, state: State | None = None, targets: Tensor | None = None) -> Output:
        """`state` is that of an `Output` before, default: zeros; with `targets` (B, T) only their scores are computed."""
        x = self.dropout(self.embedding(tokens))  # (B, T) -> (B, T, dim)
        hidden, last = self.recurrent(x, self._to_torch(state) if state else None)  # (B, T, C)
        dropped = self.dropout(hidden)
        parts = last if isinstance(last, tuple) else (last,)
        return Output(self.output(dropped, targets), [part.transpose(0, 1) for part in parts], hidden, dropped)

    def _to_torch(self, state: State) -> Tensor | tuple[Tensor, ...]:
        """As torch's layers take it: (layers, B, C), of an LSTM two."""
        parts = tuple(part.transpose(0, 1).contiguous() for part in state)
        return parts if len(parts) > 1 else parts[0]


PRESETS: dict[str, dict[str, Any]] = {
    "word": {"vocab_size": 33_278, "dim": 256, "hidden_dim": 512, "dropout": 0.2, "cutoffs": (2000, 10_000)},
    "char": {"vocab_size": 65, "dim": 64, "hidden_dim": 512},
    "tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 8, "depth": 2},
}


def build(preset: str = "word", **overrides: Any) -> RecurrentLanguageModel:
    """A simple recurrent network by the name of its preset; `overrides` are arguments of `RecurrentLanguageModel`."""
    return RecurrentLanguageModel(nn.RNN, **{**PRESETS[preset], **overrides})
