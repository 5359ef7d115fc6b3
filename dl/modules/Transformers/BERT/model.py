"""BERT.

"BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", Jacob Devlin, Ming-Wei Chang, Kenton
Lee, Kristina Toutanova, 2018, https://arxiv.org/abs/1810.04805: the encoder with both objectives of its pre-training.
"base" and "large" are the paper's. "mini" and "small" have the sizes of BERT-mini and BERT-tiny of Turc et al. 2019,
https://arxiv.org/abs/1908.08962 ("small" without dropout, for short trainings on a CPU); "minilm_l6" those of
https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2; "d2l" those of the book "Dive into Deep Learning", section
15.8 (its heads are the paper's here); "tiny" is for tests.

Deviations:
- Weights start normal with a deviation of 0.02 (linear layers of "small": 0.09); the paper's code cuts them off at two.
"""

from typing import Any, Callable, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import EncoderBlock, JoinedHead, LearnedPositions, FastDropout, sequential

# B batch, T tokens, M positions that are asked for, D width, V vocabulary


class BERTOutput(NamedTuple):
    """What one forward pass gives; None for what the model was built without."""

    mlm: Tensor | None  # (B, M, V) logits of the tokens at `positions`; (B, T, V) of all without these
    nsp: Tensor | None  # (B, 2) logits: class 0, the second sentence follows the first; 1, it does not
    hidden: Tensor  # (B, T, D) output of the last block
    pooled: Tensor | None  # (B, D) in [-1, 1]


class MaskedLanguageHead(nn.Module):
    """Which token was there: a hidden layer, then the product with the token embeddings themselves, and a bias.

    The paper leaves it to its code: https://github.com/google-research/bert, run_pretraining.py, get_masked_lm_output.

    forward: hidden (..., D), embeddings (V, D) -> logits (..., V).
    """

    def __init__(self, dim: int, vocab_size: int, activation: Callable[[], nn.Module], norm_eps: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(dim, dim)
        self.act = activation()
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        return F.linear(self.norm(self.act(self.hidden(hidden))), embeddings, self.bias)


class BERT(nn.Module):
    """Section 3: embeddings of token, segment and position, summed (figure 2); a stack of post-norm blocks; heads.

    Args:
        hidden_dim: width inside the feed-forward of each block; default 4 dim.
        max_length: positions that there are embeddings for.
        dropout: of the embeddings and of the output of every layer (appendix A.2).
        attention_dropout: of the attention weights; default as `dropout`.
        mlm, nsp: with the head of the masked tokens, of the next sentence.
        pooler: with the hidden layer on the first token, which `nsp` needs; default as `nsp`.
        deviation: of the linear layers' weights at the start. The paper's 0.02 is for widths of 768 and 1,024: in a narrow
            network all that a layer adds would be small beside its input.

    Raises `ValueError` for a head of the next sentence without the pooler.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        hidden_dim: int | None = None,
        vocab_size: int = 30522,
        max_length: int = 512,
        num_segments: int = 2,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation: Callable[[], nn.Module] = nn.GELU,
        norm_eps: float = 1e-12,
        mlm: bool = True,
        nsp: bool = True,
        pooler: bool | None = None,
        deviation: float = 0.02,
    ) -> None:
        super().__init__()
        pooler = nsp if pooler is None else pooler
        if nsp and not pooler:
            raise ValueError("the head of the next sentence (nsp) reads the pooled first token, so it needs the pooler")
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.positions = LearnedPositions(max_length, dim)
        self.segment_embedding = nn.Embedding(num_segments, dim)
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.dropout = FastDropout(dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                dim,
                num_heads,
                hidden_dim,
                activation=activation,
                dropout=dropout,
                attention_dropout=dropout if attention_dropout is None else attention_dropout,
                norm_eps=norm_eps,
            )
            for _ in range(depth)
        )
        self.pooler = sequential(fc=nn.Linear(dim, dim), act=nn.Tanh()) if pooler else None
        self.mlm_head = MaskedLanguageHead(dim, vocab_size, activation, norm_eps) if mlm else None
        self.nsp_head = nn.Linear(dim, 2) if nsp else None
        self.init_weights(deviation)

    def init_weights(self, deviation: float) -> None:
        """Linear layers and embeddings: normal, embeddings with deviation 0.02 as in the paper's code (modeling.py); biases 0.

        Norms start at scale 1 and shift 0.
        """
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=deviation)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        tokens: Tensor,
        segments: Tensor | None = None,
        padding_mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> BERTOutput:
        """tokens (B, T), the first of each row [CLS] -> `BERTOutput`.

        Args:
            segments: (B, T), 0 for tokens of the first sentence, 1 for the second. Default: all 0.
            padding_mask: bool (B, T), True where a token is padding: none attends to it.
            positions: (B, M), the places of the masked tokens. Only their logits are computed, which is most of the
                work of a small network.

        Raises `ValueError` for rows longer than `max_length`.
        """
        if segments is None:
            segments = torch.zeros_like(tokens)
        x = self.token_embedding(tokens) + self.segment_embedding(segments)  # (B, T) -> (B, T, D)
        x = self.dropout(self.norm(self.positions(x)))
        for block in self.blocks:
            x = block(x, padding_mask)
        pooled = None if self.pooler is None else self.pooler(x[:, 0])  # (B, T, D) -> (B, D)
        nsp = None if self.nsp_head is None else self.nsp_head(pooled)  # (B, D) -> (B, 2)
        mlm = None
        if self.mlm_head is not None:
            wanted = x
            if positions is not None:
                wanted = x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # (B, T, D) -> (B, M, D)
            mlm = self.mlm_head(wanted, self.token_embedding.weight)  # (B, M, D) -> (B, M, V)
        return BERTOutput(mlm, nsp, x, pooled)


class SentenceClassifier(nn.Module):
    """Fine-tuning, section 4.1 and figure 4 (b): the encoder, dropout on its pooled sentence, the output layer.

    The encoder's pooler is the hidden layer between what the sentence is summed up in and the output.

    Args:
        encoder: with the pooler, without the heads of pre-training.
        pooling: what the pooler reads: the "first" token, as in the paper, or the "mean" of all that are not padding; with
            "both", the pooled first token and the mean are joined, behind which comes a hidden layer of their own.

    forward: tokens (B, T), padding_mask (B, T) -> logits (B, num_classes). Raises `ValueError` for another encoder.
    """

    def __init__(
        self, encoder: BERT, num_classes: int, dropout: float = 0.1, pooling: Literal["first", "mean", "both"] = "first"
    ) -> None:
        super().__init__()
        if encoder.pooler is None or encoder.mlm_head is not None or encoder.nsp_head is not None:
            raise ValueError("a classifier of sentences needs an encoder with the pooler and without mlm and nsp")
        if pooling not in ("first", "mean", "both"):
            raise ValueError(f"pooling has to be first, mean or both; got {pooling!r}")
        self.encoder, self.pooling = encoder, pooling
        dim = encoder.token_embedding.embedding_dim
        self.dropout = FastDropout(dropout)
        self.head = nn.Linear(dim, num_classes)
        if pooling == "both":
            self.head = JoinedHead([dim, dim], dim, num_classes, nn.Tanh, dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """The head as all other layers: normal with deviation 0.02, biases 0 (run_classifier.py of the paper's code)."""
        for layer in self.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        output = self.encoder(tokens, padding_mask=padding_mask)
        if self.pooling == "first":
            return self.head(self.dropout(output.pooled))
        mean = mean_of_tokens(output.hidden, padding_mask)  # (B, T, D) -> (B, D)
        if self.pooling == "mean":
            return self.head(self.dropout(self.encoder.pooler(mean)))
        return self.head(self.dropout(output.pooled), mean)


def mean_of_tokens(hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """hidden (B, T, D), padding_mask (B, T), True at padding -> (B, D), the mean over the other tokens."""
    if padding_mask is None:
        return hidden.mean(1)
    real = (~padding_mask).to(hidden.dtype).unsqueeze(-1)  # (B, T, 1)
    return (hidden * real).sum(1) / real.sum(1)


def sentence_embeddings(model: BERT, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Sentences as vectors of length 1 whose products compare them: tokens (B, T) -> (B, D).

    The mean of the last hidden states (Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3).
    """
    return F.normalize(mean_of_tokens(model(tokens, padding_mask=padding_mask).hidden, padding_mask), dim=-1)


PRESETS: dict[str, dict[str, Any]] = {
    "base": {"dim": 768, "depth": 12, "num_heads": 12},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16},
    "mini": {"dim": 256, "depth": 4, "num_heads": 4},
    "small": {"dim": 128, "depth": 2, "num_heads": 2, "dropout": 0.0, "deviation": 0.09},
    "minilm_l6": {"dim": 384, "depth": 6, "num_heads": 12},
    "d2l": {"dim": 128, "depth": 2, "num_heads": 2, "hidden_dim": 256, "max_length": 1000, "dropout": 0.2},
    "tiny": {"dim": 16, "depth": 2, "num_heads": 2, "vocab_size": 50, "max_length": 32},
}


def build(preset: str = "base", **overrides: Any) -> BERT:
    """A BERT by the name of its preset; `overrides` are arguments of `BERT`."""
    return BERT(**{**PRESETS[preset], **overrides})
