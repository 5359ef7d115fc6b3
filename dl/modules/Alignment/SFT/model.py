"""SFT.

"Training language models to follow instructions with human feedback", Long Ouyang and 19 others, 2022,
https://arxiv.org/abs/2203.02155, section 3.5: a language model learns from demonstrations, a prompt and the answer to it. The
paper's networks are GPT-3; these are GPT-2s. "sums" is for sums of a few digits, "sums128" is twice as wide, "chat" is for
characters of dialogues; "tiny" is for tests. Runs of GPT-2, Llama and Qwen3 are tuned by `--init-from`.

Deviations: what is learnt is the answer alone, which the paper leaves open.
"""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.GPT.GPT2.model import GPT2

_OURS = {"dropout": 0.0, "activation": nn.GELU, "bias": False}

PRESETS: dict[str, dict[str, Any]] = {
    "sums": {"dim": 64, "depth": 2, "num_heads": 4, "vocab_size": 13, "max_length": 16, **_OURS},
    "sums128": {"dim": 128, "depth": 2, "num_heads": 4, "vocab_size": 13, "max_length": 16, **_OURS},
    "chat": {"dim": 128, "depth": 4, "num_heads": 4, "vocab_size": 100, "max_length": 512, **_OURS},
    "tiny": {"dim": 8, "depth": 2, "num_heads": 2, "vocab_size": 13, "max_length": 16, **_OURS},
}


def build(preset: str = "sums", **overrides: Any) -> GPT2:
    """Return a GPT-2 by the name of its preset; `overrides` are arguments of `GPT2`."""
    return GPT2(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor]:
    """Return a text of 9 tokens, zeros (1, T): a sum of two digits with its answer."""
    return (torch.zeros(1, 9, dtype=torch.int64),)
