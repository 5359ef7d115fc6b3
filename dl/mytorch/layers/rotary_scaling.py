"""Frequencies of rotary positions for more tokens than a model was trained on."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# D width of a head


class RotaryScaling(NamedTuple):
    """A rule by which the frequencies of rotary positions change, so that longer texts have angles that training had.

    - "linear": all are divided by `factor` (Chen et al. 2023, https://arxiv.org/abs/2306.15595).
    - "dynamic": the base grows with the length of the text beyond `original_length`; up to it nothing changes.
    - "yarn": slow ones are divided by `factor`, fast ones kept, those between interpolated, and attention is made sharper by
      `attention_factor`, default 0.1 ln(factor) + 1 (Peng et al. 2023, https://arxiv.org/abs/2309.00071, section 3). Fast and
      slow: `fast` and `slow` turns in `original_length` tokens. DeepSeek's code takes the quotient of 0.1 m ln(factor) + 1 for
      m = `mscale` and `mscale_all_dim` instead, where both are given, and multiplies the attention logits by `logit_factor`.
    - "llama3": the same with wave lengths, `original_length` / `high` and / `low` (Llama 3.1's code).
    """

    rule: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float
    original_length: int = 0
    low: float = 1.0
    high: float = 4.0
    fast: float = 32.0
    slow: float = 1.0
    attention_factor: float | None = None
    mscale: float = 0.0
    mscale_all_dim: float = 0.0

    @property
    def sharpness(self) -> float:
        """What cosines and sines are multiplied by."""
        if self.rule != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._growth(self.mscale) / self._growth(self.mscale_all_dim)
        return self._growth(1.0)

    @property
    def logit_factor(self) -> float:
        """What attention logits are multiplied by in DeepSeek's networks: all of them, those without positions too."""
        return self._growth(self.mscale_all_dim) ** 2

    def _growth(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(max(self.factor, 1.0)) + 1


def frequencies(head_dim: int, base: float, scaling: RotaryScaling | None = None, length: int = 0) -> Tensor:
    """Return by how much each pair of dimensions turns from one token to the next, (D/2,) in float64, radians.

    `length` of the text counts for the rule "dynamic" alone. Raises `ValueError` for an unknown rule.
    """
    if scaling is not None and scaling.rule == "dynamic":
        ratio = max(length, scaling.original_length) / scaling.original_length
        base *= (scaling.factor * ratio - (scaling.factor - 1)) ** (head_dim / (head_dim - 2))
    plain = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if scaling is None or scaling.rule == "dynamic":
        return plain
    if scaling.rule == "linear":
        return plain / scaling.factor
    if scaling.rule == "yarn":
        kept = _kept_by_yarn(head_dim, base, scaling)
    elif scaling.rule == "llama3":
        waves = scaling.original_length * plain / (2 * math.pi)  # in the texts of training
        kept = ((waves - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    else:
        raise ValueError(f"the rule is one of linear, dynamic, yarn, llama3; got {scaling.rule!r}")
    return kept * plain + (1 - kept) * plain / scaling.factor


def _kept_by_yarn(head_dim: int, base: float, scaling: RotaryScaling) -> Tensor:
    """Return what part of each frequency stays, (D/2,): 1 for the fast ones, 0 for the slow ones, in between by place."""
    first, last = (
        head_dim * math.log(scaling.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (scaling.fast, scaling.slow)
    )  # the places of the frequencies that make so many turns
    first, last = max(math.floor(first), 0), min(math.ceil(last), head_dim - 1)
    places = torch.arange(head_dim // 2, dtype=torch.float64)
    return 1 - ((places - first) / max(last - first, 0.001)).clamp(0, 1)
