"""GPT-2.

"Language Models are Unsupervised Multitask Learners", Alec Radford, Jeffrey Wu, Rewon Child, David Luan, Dario Amodei & Ilya
Sutskever, 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf: a
decoder-only transformer with its norms before the layers, in the four published sizes (table 2; its counts of parameters
are corrected by those of https://github.com/openai/gpt-2). "char" and "char_gpu" are the two networks for characters of
Shakespeare of https://github.com/karpathy/nanoGPT, without biases and with the exact GELU; "small" is ours, for word pieces
of WikiText-2; "tiny" is for tests.

Deviations: none of architecture. What the paper leaves open (deviation of the initial weights, GELU by tanh) follows its code.
"""

import math
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import EncoderBlock, KeyValueCache, FastDropout

# B batch, T tokens, S tokens with those in the cache, C width, V vocabulary


class GPT2(nn.Module):
    """Section 2.3: embeddings of token and position, pre-norm blocks, a last norm, logits by the token embeddings.

    Args:
        max_length: positions that there are embeddings for, the most tokens in a context.
        hidden_dim: width inside the feed-forward of each block; default 4 dim.
        dropout: of the embeddings and of the output of every layer.
        attention_dropout: of the attention weights; default as `dropout`.
        bias: of the linear layers and norms; GPT-2 has them.

    Raises `ValueError` for a dim that does not divide into heads.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        vocab_size: int = 50257,
        max_length: int = 1024,
        hidden_dim: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float | None = None,
        activation: Callable[[], nn.Module] = partial(nn.GELU, approximate="tanh"),
        norm_eps: float = 1e-5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.max_length = max_length
        self.token_embedding = nn.Embedding(vocab_size, dim)
        self.position_embedding = nn.Embedding(max_length, dim)
        self.dropout = FastDropout(dropout)
        self.blocks = nn.ModuleList(
            EncoderBlock(
                dim,
                num_heads,
                hidden_dim,
                norm_first=True,
                causal=True,
                activation=activation,
                dropout=dropout,
                attention_dropout=dropout if attention_dropout is None else attention_dropout,
                norm_eps=norm_eps,
                bias=bias,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim, norm_eps, bias=bias)
        self.init_weights()

    def init_weights(self) -> None:
        """As the paper's code has it (https://github.com/openai/gpt-2, src/model.py), with the scaling of section 2.3.

        - token embedding, linear layers: normal, deviation 0.02
        - the last linear layer of each residual branch: 0.02 / sqrt(branches), of which there are two a block
        - position embedding: normal, deviation 0.01
        - biases: 0
        """
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                last = name.endswith(("attention.layer.output", "feed_forward.layer.fc2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * len(self.blocks)) if last else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position_embedding.weight, std=0.01)

    def new_cache(self) -> list[KeyValueCache]:
        """Empty, for `forward` to fill, with room for `max_length` tokens."""
        return [KeyValueCache(self.max_length) for _ in self.blocks]

    def forward(
        self, tokens: Tensor, padding_mask: Tensor | None = None, cache: list[KeyValueCache] | None = None
    ) -> Tensor:
        """tokens (B, T) -> logits (B, T, V), those at t for token t + 1.

        Args:
            padding_mask: bool (B, T), True where a token is padding, on either side: nothing attends to it, and
                positions count the other tokens only. With a cache (B, S), for the tokens of the calls before as well.
            cache: a `new_cache`; tokens are then only those that follow the calls before.

        Raises `ValueError` for more tokens than `max_length`.
        """
        x = self.before_blocks(tokens, padding_mask, cache[0].length if cache else 0)
        for i, block in enumerate(self.blocks):
            x = block(x, padding_mask, cache[i] if cache else None)
        return self.after_blocks(x)

    def before_blocks(self, tokens: Tensor, padding_mask: Tensor | None = None, start: int = 0) -> Tensor:
        """tokens (B, T), the first at position `start` -> (B, T, C)."""
        end = start + tokens.shape[1]
        if end > self.max_length:
            raise ValueError(f"{end} tokens are more than the {self.max_length} that the model has positions for")
        if padding_mask is None:
            positions = torch.arange(start, end, device=tokens.device)  # (T,)
        else:
            positions = ((~padding_mask).cumsum(1) - 1).clamp(min=0)[:, start:]  # (B, S) -> (B, T)
        return self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))  # (B, T) -> (B, T, C)

    def after_blocks(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.token_embedding.weight)  # (B, T, C) -> (B, T, V)


PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": {"dim": 768, "depth": 12, "num_heads": 12},
    "gpt2-medium": {"dim": 1024, "depth": 24, "num_heads": 16},
    "gpt2-large": {"dim": 1280, "depth": 36, "num_heads": 20},
    "gpt2-xl": {"dim": 1600, "depth": 48, "num_heads": 25},
    "char": {
        **{"dim": 128, "depth": 4, "num_heads": 4, "vocab_size": 65, "max_length": 64},
        **{"dropout": 0.0, "activation": nn.GELU, "bias": False},
    },
    "char_gpu": {
        **{"dim": 384, "depth": 6, "num_heads": 6, "vocab_size": 65, "max_length": 256},
        **{"dropout": 0.2, "activation": nn.GELU, "bias": False},
    },
    "small": {"dim": 256, "depth": 4, "num_heads": 4, "vocab_size": 4000, "max_length": 128, "dropout": 0.0},
    "tiny": {"dim": 8, "depth": 2, "num_heads": 2, "vocab_size": 11, "max_length": 16, "dropout": 0.0},
}


def build(preset: str = "gpt2", **overrides: Any) -> GPT2:
    """A GPT-2 by the name of its preset; `overrides` are arguments of `GPT2`."""
    return GPT2(**{**PRESETS[preset], **overrides})
