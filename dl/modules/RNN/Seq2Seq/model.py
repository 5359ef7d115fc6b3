"""Sequence to sequence.

"Sequence to Sequence Learning with Neural Networks", Ilya Sutskever, Oriol Vinyals & Quoc V. Le, 2014,
https://arxiv.org/abs/1409.3215: one deep LSTM reads a sentence, turned round, into its state; another one starts from that
state and says the translation. "sutskever" is the network of section 3.4. "cho" gives every step of the decoder the state of
the encoder as well, as Cho et al. 2014, https://arxiv.org/abs/1406.1078, section 2.2, with one layer of 1,000 GRUs and
15,000 words. "small" is ours, for captions on a CPU; "tiny" is for tests.

Deviations: "cho" has the embeddings of the paper, of width 100, but no maxout layer before the output, and its decoder
starts from the encoder's state itself. Dropout, which neither paper has, is off in their presets.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

# B batch, S source tokens, T target tokens, C width of a state, V vocabulary


class StateCache:
    """What a recurrent decoder remembers of the target so far: its state, (B, ...), an example a row."""

    state: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Keep these hypotheses."""
        self.state = self.state[rows]


def run_packed(layer: nn.RNNBase, x: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Any]:
    """Return outputs (B, S, C) and last states of a recurrent layer that stops at the end of each row, where padding begins.

    Outputs at padding are 0. A layer that also reads backwards begins at the last token that is none.
    """
    if padding_mask is None or not len(x):  # a rank may have no row
        return layer(x)
    lengths = (~padding_mask).sum(1).cpu()
    packed, last = layer(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0], last


def turn_round(source: Tensor, padding_mask: Tensor | None) -> Tensor:
    """Return the tokens (B, S) of each row in reverse, padding left at the end."""
    if padding_mask is None:
        return source.flip(1)
    lengths = (~padding_mask).sum(1, keepdim=True)
    places = torch.arange(source.shape[1], device=source.device).expand_as(source)
    return source.gather(1, torch.where(padding_mask, places, lengths - 1 - places))


class Seq2Seq(nn.Module):
    """Section 3: encoder and decoder of `depth` layers each, and a softmax over all words.

    Args:
        vocabulary_size: of the target.
        layer: `nn.LSTM` or `nn.GRU`, of both sides.
        dropout: of embeddings and of the output of each layer.
        reverse: the source is read from its end (section 3.3).
        context: each step of the decoder is given the encoder's last state, beside the word before, and so is the output.

    forward: source (B, S), target (B, T), source_padding_mask (B, S), True where a token is padding -> logits (B, T, V),
    those at t for the target's token t + 1: the word before is always the true one (teacher forcing).
    """

    max_length = 2**31 - 1  # there are no positions that could run out

    def __init__(
        self,
        source_vocabulary_size: int,
        vocabulary_size: int,
        dim: int,
        hidden_dim: int,
        depth: int,
        layer: type[nn.RNNBase] = nn.LSTM,
        dropout: float = 0.0,
        reverse: bool = True,
        context: bool = False,
    ) -> None:
        super().__init__()
        self.reverse, self.context, self.depth = reverse, context, depth
        options = {"num_layers": depth, "dropout": dropout if depth > 1 else 0.0, "batch_first": True}
        extra = hidden_dim if context else 0
        self.source_embedding = nn.Embedding(source_vocabulary_size, dim)
        self.encoder = layer(dim, hidden_dim, **options)
        self.embedding = nn.Embedding(vocabulary_size, dim)
        self.decoder = layer(dim + extra, hidden_dim, **options)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden_dim + extra, vocabulary_size)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw all weights uniform within +-0.08: section 3.4."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.08, 0.08)

    def forward(self, source: Tensor, target: Tensor, source_padding_mask: Tensor | None = None) -> Tensor:
        return self.decode(target, self.encode(source, source_padding_mask), source_padding_mask)

    def encode(self, source: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """source (B, S) -> the last states of all layers, of an LSTM its cells after them: (B, layers or 2 layers, C)."""
        if self.reverse:
            source = turn_round(source, padding_mask)
        _, last = run_packed(self.encoder, self.dropout(self.source_embedding(source)), padding_mask)
        return torch.cat(last if isinstance(last, tuple) else (last,)).transpose(0, 1)

    def decode(
        self, target: Tensor, memory: Tensor, memory_padding_mask: Tensor | None = None, cache: StateCache | None = None
    ) -> Tensor:
        """target (B, T), memory of `encode` -> logits (B, T, V). With a cache, only what follows the calls before is given."""
        state = memory if cache is None or cache.state is None else cache.state
        x = self.dropout(self.embedding(target))  # (B, T) -> (B, T, dim)
        context = memory[:, None, self.depth - 1].expand(-1, x.shape[1], -1)  # (B, T, C): the last layer's
        if self.context:
            x = torch.cat([x, context], dim=-1)
        parts = tuple(part.contiguous() for part in state.transpose(0, 1).split(self.depth))  # (layers, B, C) each
        hidden, last = self.decoder(x, parts if len(parts) > 1 else parts[0])
        if cache is not None:
            cache.state = torch.cat(last if isinstance(last, tuple) else (last,)).transpose(0, 1)
        hidden = self.dropout(hidden)
        return self.output(torch.cat([hidden, context], dim=-1) if self.context else hidden)

    def new_cache(self, source_length: int = 0, target_length: int = 0) -> StateCache:
        """Return an empty cache for `decode` to fill; its size does not depend on the lengths."""
        return StateCache()


PRESETS: dict[str, dict[str, Any]] = {
    "sutskever": {"source_vocabulary_size": 160_000, "vocabulary_size": 80_000, "dim": 1000, "hidden_dim": 1000, "depth": 4},
    "cho": {
        **{"source_vocabulary_size": 15_000, "vocabulary_size": 15_000, "dim": 100, "hidden_dim": 1000, "depth": 1},
        **{"layer": nn.GRU, "reverse": False, "context": True},
    },
    "small": {
        **{"source_vocabulary_size": 10_000, "vocabulary_size": 10_000, "dim": 128, "hidden_dim": 256, "depth": 2},
        **{"dropout": 0.3},
    },
    "tiny": {"source_vocabulary_size": 16, "vocabulary_size": 16, "dim": 6, "hidden_dim": 8, "depth": 2},
}


def build(preset: str = "sutskever", **overrides: Any) -> Seq2Seq:
    """Return a Seq2Seq network by the name of its preset; `overrides` are arguments of `Seq2Seq`."""
    return Seq2Seq(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return a source and a target of 16 tokens each, zeros (1, T)."""
    return torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, 16, dtype=torch.int64)
