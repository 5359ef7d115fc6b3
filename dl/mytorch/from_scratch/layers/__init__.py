"""torch's layers written by hand, under torch's names; their functions are in the files."""

from dl.mytorch.from_scratch.layers.activations import (
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
from dl.mytorch.from_scratch.layers.conv import Conv1d, Conv2d, ConvTranspose2d
from dl.mytorch.from_scratch.layers.dropout import Dropout
from dl.mytorch.from_scratch.layers.embedding import Embedding
from dl.mytorch.from_scratch.layers.linear import Linear
from dl.mytorch.from_scratch.layers.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from dl.mytorch.from_scratch.layers.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from dl.mytorch.from_scratch.layers.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from dl.mytorch.from_scratch.layers.swap import from_scratch

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
    "LSTMCell",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool2d",
    "RMSNorm",
    "RNNCell",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "from_scratch",
]
