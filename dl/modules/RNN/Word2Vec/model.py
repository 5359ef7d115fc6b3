"""Word vectors.

"Distributed Representations of Words and Phrases and their Compositionality", Tomas Mikolov, Ilya Sutskever, Kai Chen, Greg
Corrado & Jeffrey Dean, 2013, https://arxiv.org/abs/1310.4546, on the two models of Mikolov, Chen, Corrado & Dean 2013,
https://arxiv.org/abs/1301.3781: words that stand among the same words get vectors that are near each other.

Skip-gram names a word from one word near it, CBOW from the mean of all words near it. Both are one network, which is given
one input word or several; what differs is in data.py, with the windows and the drawing of negative words.

Deviations: none of architecture. Among the negative words may be the true word itself; https://github.com/tmikolov/word2vec
leaves such a draw out.
"""

from typing import Any

import torch
from torch import Tensor, nn

# B examples, C words that are given, K words to choose from, E width of a vector


class Word2Vec(nn.Module):
    """Two vectors for each word: as one that is given, and as one that is named (2013b, equation 2).

    forward: inputs (B, C), candidates (B, K), padding_mask (B, C), True where there is no word -> logits (B, K): the
    product of each candidate's vector and the mean vector of the inputs.
    """

    def __init__(self, vocab_size: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim)
        self.output = nn.Embedding(vocab_size, dim)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw inputs uniform within +-0.5 / E, set outputs to 0, as https://github.com/tmikolov/word2vec."""
        nn.init.uniform_(self.embedding.weight, -0.5 / self.embedding.embedding_dim, 0.5 / self.embedding.embedding_dim)
        nn.init.zeros_(self.output.weight)

    def forward(self, inputs: Tensor, candidates: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        given = self.embedding(inputs)  # (B, C) -> (B, C, E)
        if padding_mask is None:
            mean = given.mean(1)  # (B, E)
        else:
            words = ~padding_mask[..., None]
            mean = (given * words).sum(1) / words.sum(1).clamp(min=1)
        return torch.bmm(self.output(candidates), mean[..., None])[..., 0]  # (B, K, E) (B, E, 1) -> (B, K)

    def neighbours(self, words: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the words whose vectors point most in the direction of those of `words` (N,): cosines and ids (N, count)."""
        vectors = nn.functional.normalize(self.embedding.weight, dim=1)
        cosines = vectors[words] @ vectors.T  # (N, V)
        cosines[torch.arange(len(words)), words] = -torch.inf  # not the word itself
        best = cosines.topk(count, dim=1)
        return best.values, best.indices


PRESETS: dict[str, dict[str, Any]] = {
    "google": {"vocab_size": 692_000, "dim": 300},
    "small": {"vocab_size": 20_000, "dim": 100},
    "tiny": {"vocab_size": 16, "dim": 6},
}


def build(preset: str = "small", **overrides: Any) -> Word2Vec:
    """Return word vectors by the name of their preset; `overrides` are arguments of `Word2Vec`."""
    return Word2Vec(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, Tensor]:
    """Return 16 context words and 16 candidates, zeros (1, C) each."""
    return torch.zeros(1, 16, dtype=torch.int64), torch.zeros(1, 16, dtype=torch.int64)
