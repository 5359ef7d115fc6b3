"""Attention.

"Neural Machine Translation by Jointly Learning to Align and Translate", Dzmitry Bahdanau, Kyunghyun Cho & Yoshua Bengio,
2014, https://arxiv.org/abs/1409.0473: the decoder no longer has to hold a whole sentence in one state. Before emitting each
word it computes a fresh attention distribution over the annotations of a bidirectional encoder.

"rnnsearch" has the sizes of appendix A; "small" is ours, for captions on a CPU; "tiny" is for tests.

Deviations: as `nn.GRU` and cuDNN have it, the reset gate acts after the recurrent matrix, and each sum has its biases.
Dropout, which the paper lacks, is off in "rnnsearch".
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.RNN.Seq2Seq.model import StateCache, run_packed

# B batch, S source tokens, T target tokens, C width of a state, A of the alignment, V vocabulary


class AdditiveAttention(nn.Module):
    """Section 3.1 and appendix A.1.2: e = v tanh(W s + U h), weights = softmax(e) over the source, context = sum of weights h.

    forward: query (B, C), annotations (B, S, 2C), keys (B, S, A) of these, padding_mask (B, S) -> context (B, 2C), weights
    (B, S).
    """

    def __init__(self, query_dim: int, annotation_dim: int, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(query_dim, dim, bias=False)
        self.key = nn.Linear(annotation_dim, dim, bias=False)
        self.energy = nn.Linear(dim, 1, bias=False)

    def forward(
        self, query: Tensor, annotations: Tensor, keys: Tensor, padding_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        energy = self.energy(torch.tanh(self.query(query)[:, None] + keys))[..., 0]  # (B, 1, A) + (B, S, A) -> (B, S)
        if padding_mask is not None:
            energy = energy.masked_fill(padding_mask, -torch.inf)
        weights = energy.softmax(-1)
        return torch.bmm(weights[:, None], annotations)[:, 0], weights  # (B, 1, S) (B, S, 2C) -> (B, 2C)


class RNNSearch(nn.Module):
    """Section 3: an encoder in both directions, a decoder that attends before each word, an output through a maxout layer.

    Args:
        vocabulary_size: of the target.
        attention_dim: width of the alignment.
        maxout_dim: units before the output, each the larger of two.
        dropout: of embeddings and of the maxout layer.

    forward: source (B, S), target (B, T), source_padding_mask (B, S), True where a token is padding -> logits (B, T, V),
    those at t for the target's token t + 1: the word before is always the true one (teacher forcing).
    """

    RENAMED = ((r"^first\.", "init_state."),)  # names of earlier versions as regular expressions, and today's
    max_length = 2**31 - 1  # there are no positions that could run out

    def __init__(
        self,
        source_vocabulary_size: int,
        vocabulary_size: int,
        dim: int,
        hidden_dim: int,
        attention_dim: int,
        maxout_dim: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.source_embedding = nn.Embedding(source_vocabulary_size, dim)
        self.encoder = nn.GRU(dim, hidden_dim, batch_first=True, bidirectional=True)
        self.embedding = nn.Embedding(vocabulary_size, dim)
        self.init_state = nn.Linear(hidden_dim, hidden_dim)
        self.attention = AdditiveAttention(hidden_dim, 2 * hidden_dim, attention_dim)
        self.decoder = nn.GRUCell(dim + 2 * hidden_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.maxout = nn.Linear(hidden_dim + dim + 2 * hidden_dim, 2 * maxout_dim)
        self.output = nn.Linear(maxout_dim, vocabulary_size)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weights as in appendix B.1.

        - matrices from state to state: orthogonal, for each gate
        - the alignment's two matrices: normal, std 0.001; its vector: 0
        - all other matrices: normal, std 0.01; biases: 0
        """
        for name, parameter in self.named_parameters():
            if "weight_hh" in name:
                for gate in parameter.data.chunk(3):
                    nn.init.orthogonal_(gate)
            elif parameter.ndim == 1 or "energy" in name:
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.001 if "attention" in name else 0.01)

    def forward(self, source: Tensor, target: Tensor, source_padding_mask: Tensor | None = None) -> Tensor:
        return self.decode(target, self.encode(source, source_padding_mask), source_padding_mask)

    def encode(self, source: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """source (B, S) -> annotations (B, S, 2C), 0 at padding."""
        return run_packed(self.encoder, self.dropout(self.source_embedding(source)), padding_mask)[0]

    def decode(
        self, target: Tensor, memory: Tensor, memory_padding_mask: Tensor | None = None, cache: StateCache | None = None
    ) -> Tensor:
        """target (B, T), annotations of `encode` -> logits (B, T, V). With a cache, `target` follows earlier calls."""
        return self.align(target, memory, memory_padding_mask, cache)[0]

    def align(
        self, target: Tensor, memory: Tensor, memory_padding_mask: Tensor | None = None, cache: StateCache | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `decode` does, and the attention of each step: logits (B, T, V), weights (B, T, S)."""
        x = self.dropout(self.embedding(target))  # (B, T) -> (B, T, dim)
        keys = self.attention.key(memory)  # (B, S, 2C) -> (B, S, A)
        if cache is None or cache.state is None:
            backward = memory[:, 0, memory.shape[2] // 2 :]  # (B, C): it has read the whole sentence
            state = torch.tanh(self.init_state(backward))
        else:
            state = cache.state
        states, contexts, attention = [], [], []
        for t in range(target.shape[1]):
            context, weights = self.attention(state, memory, keys, memory_padding_mask)
            states.append(state)
            contexts.append(context)
            attention.append(weights)
            state = self.decoder(torch.cat([x[:, t], context], dim=1), state)
        if cache is not None:
            cache.state = state
        # Appendix A.2.2: the word is chosen by the state before it, the word before it, and the context.
        features = torch.cat([torch.stack(states, 1), x, torch.stack(contexts, 1)], dim=-1)
        units = self.maxout(features).unflatten(-1, (-1, 2)).amax(-1)  # (B, T, 2 M) -> (B, T, M)
        return self.output(self.dropout(units)), torch.stack(attention, 1)

    def new_cache(self, source_length: int = 0, target_length: int = 0) -> StateCache:
        """Return an empty cache for `decode` to fill; its size does not depend on the lengths."""
        return StateCache()


PRESETS: dict[str, dict[str, Any]] = {
    "rnnsearch": {
        **{"source_vocabulary_size": 30_000, "vocabulary_size": 30_000, "dim": 620, "hidden_dim": 1000},
        **{"attention_dim": 1000, "maxout_dim": 500},
    },
    "small": {
        **{"source_vocabulary_size": 10_000, "vocabulary_size": 10_000, "dim": 256, "hidden_dim": 320},
        **{"attention_dim": 160, "maxout_dim": 160, "dropout": 0.3},
    },
    "tiny": {
        **{"source_vocabulary_size": 16, "vocabulary_size": 16, "dim": 6, "hidden_dim": 8},
        **{"attention_dim": 5, "maxout_dim": 7},
    },
}


def build(preset: str = "rnnsearch", **overrides: Any) -> RNNSearch:
    """Return a network with attention by the name of its preset; `overrides` are arguments of `RNNSearch`."""
    return RNNSearch(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return a source and a target of 16 tokens each, zeros (1, T)."""
    return torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, 16, dtype=torch.int64)
