"""Layers that two models or more share. Each can be used like those of `torch.nn`."""

from dl.mytorch.layers.attention import KeyValueCache, MultiHeadAttention, attention
from dl.mytorch.layers.dropout import Dropout
from dl.mytorch.layers.joined_head import JoinedHead
from dl.mytorch.layers.linear import Linear
from dl.mytorch.layers.positions import LearnedPositions, SinusoidalPositions, sinusoidal_positions
from dl.mytorch.layers.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from dl.mytorch.layers.rotary import RotaryPositions
from dl.mytorch.layers.sequential import sequential
from dl.mytorch.layers.squeeze_excitation import SqueezeExcitation
from dl.mytorch.layers.stochastic_depth import StochasticDepth
from dl.mytorch.layers.transformer_blocks import DecoderBlock, EncoderBlock, Residual, feed_forward

__all__ = [
    "DecoderBlock",
    "Dropout",
    "EncoderBlock",
    "GRU",
    "GRUCell",
    "JoinedHead",
    "KeyValueCache",
    "LSTM",
    "LSTMCell",
    "LearnedPositions",
    "Linear",
    "MultiHeadAttention",
    "RNN",
    "RNNCell",
    "Residual",
    "RotaryPositions",
    "SinusoidalPositions",
    "SqueezeExcitation",
    "StochasticDepth",
    "attention",
    "feed_forward",
    "sequential",
    "sinusoidal_positions",
]
