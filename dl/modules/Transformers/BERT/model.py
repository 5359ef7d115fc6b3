"""BERT.

"BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", Jacob Devlin, Ming-Wei Chang, Kenton
Lee, Kristina Toutanova, 2018, https://arxiv.org/abs/1810.04805: the encoder with both objectives of its pre-training.
"base" and "large" are the paper's. "mini" and "small" have the sizes of BERT-mini and BERT-tiny of Turc et al. 2019,
https://arxiv.org/abs/1908.08962 ("small" without dropout, for short trainings on a CPU); "minilm_l6" those of
https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2; "d2l" those of the book "Dive into Deep Learning", section
15.8 (its heads are the paper's here); "tiny" is for tests.

Deviations:
- Weights start normal with a std of 0.02 (linear layers of "small": 0.09); the paper's code cuts them off at two of these.
"""

from typing import Any, Callable, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import fused_attention, sequential

# B batch, T tokens, M masked positions, C width, H heads, D width of a head, V vocabulary


class SelfAttention(nn.Module):
    """Each token attends to all that are not padding, in H heads of width D = C / H.

    Raises `ValueError` for a width that does not divide into heads.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} has to divide into num_heads {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.weights = nn.Identity()  # a `Probe` on it sees the attention weights (B, H, T, T)
        self.dropout = nn.Dropout(dropout)  # of the attention weights
        self.output = nn.Linear(dim, dim)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, T) -> (B, T, C)."""
        query, key, value = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)  # (B, T, C) -> (B, T, H, D) -> (B, H, T, D)
            for layer in (self.query, self.key, self.value)
        )
        y = fused_attention(query, key, value, padding_mask, dropout=self.dropout, weights=self.weights)
        return self.output(y.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H, D) -> (B, T, C)


class Block(nn.Module):
    """The encoder's block of Vaswani et al. 2017: attention and feed-forward, around each a shortcut and after it a norm."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        dropout: float,
        attention_dropout: float,
        activation: Callable[[], nn.Module],
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, num_heads, attention_dropout)
        self.norm1 = nn.LayerNorm(dim, norm_eps)
        self.feed_forward = sequential(fc1=nn.Linear(dim, hidden_dim), act=activation(), fc2=nn.Linear(hidden_dim, dim))
        self.norm2 = nn.LayerNorm(dim, norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """x (B, T, C), padding_mask bool (B, T) -> (B, T, C)."""
        x = self.norm1(x + self.dropout(self.attention(x, padding_mask)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))


class BERTOutput(NamedTuple):
    """What one forward pass returns; None for what the model was built without."""

    mlm: Tensor | None  # (B, M, V) logits of the tokens at `positions`; (B, T, V) of all without these
    nsp: Tensor | None  # (B, 2) logits: class 0, the second sentence follows the first; 1, it does not
    hidden: Tensor  # (B, T, C) output of the last block
    pooled: Tensor | None  # (B, C) in [-1, 1]


class MaskedLanguageHead(nn.Module):
    """Predicts the masked tokens: a hidden layer, then the product with the token embeddings themselves, and a bias.

    The paper leaves it to its code: https://github.com/google-research/bert, run_pretraining.py, get_masked_lm_output.

    forward: hidden (..., C), embeddings (V, C) -> logits (..., V).
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

    Raises `ValueError` for a head of the next sentence without the pooler.
    """

    RENAMED = (  # names of earlier versions as regular expressions, and today's
        (r"^positions\.table$", "position_embedding"),
        (r"\.attention\.layer\.", ".attention."),
        (r"\.attention\.norm\.", ".norm1."),
        (r"\.feed_forward\.layer\.", ".feed_forward."),
        (r"\.feed_forward\.norm\.", ".norm2."),
    )

    def __init__(
        self,
        dim: int,  # C
        depth: int,  # blocks
        num_heads: int,  # H
        hidden_dim: int | None = None,  # width inside the feed-forward of each block; default 4 dim
        vocab_size: int = 30522,  # V
        max_length: int = 512,  # positions that there are embeddings for
        num_segments: int = 2,  # kinds of sentence that there are embeddings for
        dropout: float = 0.1,  # of the embeddings and of the output of every layer (appendix A.2)
        attention_dropout: float | None = None,  # of the attention weights; default as `dropout`
        activation: Callable[[], nn.Module] = nn.GELU,
        norm_eps: float = 1e-12,
        mlm: bool = True,  # with the head of the masked tokens
        nsp: bool = True,  # with the head of the next sentence
        pooler: bool | None = None,  # with the hidden layer on the first token, which `nsp` needs; default as `nsp`
        std: float = 0.02,  # of the linear layers' first weights, see `init_weights`
    ) -> None:
        super().__init__()
        pooler = nsp if pooler is None else pooler
        if nsp and not pooler:
            raise ValueError("the head of the next sentence (nsp) reads the pooled first token, so it needs the pooler")
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Parameter(nn.init.normal_(torch.empty(max_length, dim), std=0.02))
        self.segment_embedding = nn.Embedding(num_segments, dim)
        self.norm = nn.LayerNorm(dim, norm_eps)
        self.dropout = nn.Dropout(dropout)
        attention_dropout = dropout if attention_dropout is None else attention_dropout
        sizes = (dim, num_heads, hidden_dim or 4 * dim, dropout, attention_dropout, activation, norm_eps)
        self.blocks = nn.ModuleList(Block(*sizes) for _ in range(depth))
        self.pooler = sequential(fc=nn.Linear(dim, dim), act=nn.Tanh()) if pooler else None
        self.mlm_head = MaskedLanguageHead(dim, vocab_size, activation, norm_eps) if mlm else None
        self.nsp_head = nn.Linear(dim, 2) if nsp else None
        self.init_weights(std)

    def init_weights(self, std: float) -> None:
        """Draw the weights as the paper's code (modeling.py) does, but without cutting off the normal distribution.

        - token, segment embedding: normal, std 0.02
        - position embedding: normal, std 0.02, where it is defined
        - all linear layers: normal, `std`, biases 0. The paper's 0.02 is for widths of 768 and 1,024: in a narrow network
          all that a layer adds would be small beside its input
        - norms: scale 1, shift 0
        """
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.segment_embedding.weight, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

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
            positions: (B, M), those of the masked tokens. Only their logits are computed, which is most of the
                work of a small network.

        Raises `ValueError` for rows longer than `max_length`.
        """
        length = tokens.shape[1]
        if length > len(self.position_embedding):
            raise ValueError(f"{length} positions are asked for, the model has {len(self.position_embedding)}")
        if segments is None:
            segments = torch.zeros_like(tokens)
        x = self.token_embedding(tokens) + self.segment_embedding(segments)  # (B, T) -> (B, T, C)
        x = self.dropout(self.norm(x + self.position_embedding[:length]))
        for block in self.blocks:
            x = block(x, padding_mask)
        pooled = None if self.pooler is None else self.pooler(x[:, 0])  # (B, T, C) -> (B, C)
        nsp = None if self.nsp_head is None else self.nsp_head(pooled)  # (B, C) -> (B, 2)
        mlm = None
        if self.mlm_head is not None:
            wanted = x
            if positions is not None:
                wanted = x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))  # (B, T, C) -> (B, M, C)
            mlm = self.mlm_head(wanted, self.token_embedding.weight)  # (B, M, C) -> (B, M, V)
        return BERTOutput(mlm, nsp, x, pooled)


def mean_of_tokens(hidden: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """hidden (B, T, C), padding_mask (B, T), True at padding -> (B, C), the mean over the other tokens."""
    if padding_mask is None:
        return hidden.mean(1)
    real = (~padding_mask).to(hidden.dtype).unsqueeze(-1)  # (B, T, 1)
    return (hidden * real).sum(1) / real.sum(1)


def sentence_embeddings(model: BERT, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
    """Return sentences as vectors of length 1 whose products compare them: tokens (B, T) -> (B, C).

    The mean of the last hidden states (Reimers & Gurevych 2019, https://arxiv.org/abs/1908.10084, section 3).
    """
    return F.normalize(mean_of_tokens(model(tokens, padding_mask=padding_mask).hidden, padding_mask), dim=-1)


PRESETS: dict[str, dict[str, Any]] = {
    "base": {"dim": 768, "depth": 12, "num_heads": 12},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16},
    "mini": {"dim": 256, "depth": 4, "num_heads": 4},
    "small": {"dim": 128, "depth": 2, "num_heads": 2, "dropout": 0.0, "std": 0.09},
    "minilm_l6": {"dim": 384, "depth": 6, "num_heads": 12},
    "d2l": {"dim": 128, "depth": 2, "num_heads": 2, "hidden_dim": 256, "max_length": 1000, "dropout": 0.2},
    "tiny": {"dim": 16, "depth": 2, "num_heads": 2, "vocab_size": 50, "max_length": 32},
}


def build(preset: str = "base", **overrides: Any) -> BERT:
    """Return a BERT by the name of its preset; `overrides` are arguments of `BERT`."""
    return BERT(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 16 tokens, zeros (1, T)."""
    return (torch.zeros(1, 16, dtype=torch.int64),)
