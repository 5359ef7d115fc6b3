"""Layers that two models or more share, each to be used like those of `torch.nn`.

torch's layers rebuilt by hand are in dl/mytorch/from_scratch.
"""

from dl.mytorch.layers.attention import KeyValueCache, attention, fused_attention
from dl.mytorch.layers.concat_head import ConcatHead
from dl.mytorch.layers.dropout import FastDropout, use_fast_dropout
from dl.mytorch.layers.positions import time_frequencies
from dl.mytorch.layers.rotary import RotaryPositions
from dl.mytorch.layers.sequential import sequential
from dl.mytorch.layers.squeeze_excitation import SqueezeExcitation
from dl.mytorch.layers.stochastic_depth import StochasticDepth

__all__ = [
    "FastDropout",
    "ConcatHead",
    "KeyValueCache",
    "RotaryPositions",
    "SqueezeExcitation",
    "StochasticDepth",
    "attention",
    "fused_attention",
    "sequential",
    "time_frequencies",
    "use_fast_dropout",
]
