"""Layers, each to be used like those of `torch.nn`: torch's own, written by hand, and those that two models or more share.

Their functions are in the files, under the names of `torch.nn.functional` and `torch.nn.init`.
"""

from dl.mytorch.layers.activations import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from dl.mytorch.layers.attention import KeyValueCache, attention, fused_attention
from dl.mytorch.layers.conv import Conv1d, Conv2d, ConvTranspose2d
from dl.mytorch.layers.dropout import Dropout, FastDropout, use_fast_dropout
from dl.mytorch.layers.embedding import Embedding
from dl.mytorch.layers.from_scratch import from_scratch
from dl.mytorch.layers.joined_head import JoinedHead
from dl.mytorch.layers.linear import Linear
from dl.mytorch.layers.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from dl.mytorch.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from dl.mytorch.layers.positions import time_frequencies
from dl.mytorch.layers.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from dl.mytorch.layers.rotary import RotaryPositions
from dl.mytorch.layers.sequential import sequential
from dl.mytorch.layers.squeeze_excitation import SqueezeExcitation
from dl.mytorch.layers.stochastic_depth import StochasticDepth

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dropout",
    "Embedding",
    "GRUCell",
    "GroupNorm",
    "JoinedHead",
    "KeyValueCache",
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "FastDropout",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "RotaryPositions",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SqueezeExcitation",
    "StochasticDepth",
    "Tanh",
    "attention",
    "from_scratch",
    "fused_attention",
    "sequential",
    "time_frequencies",
    "use_fast_dropout",
]
