"""Gated recurrent unit.

"Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation", Kyunghyun Cho, Bart van
Merrienboer, Caglar Gulcehre, Dzmitry Bahdanau, Fethi Bougares, Holger Schwenk & Yoshua Bengio, 2014,
https://arxiv.org/abs/1406.1078, section 2.3: one gate lets a unit forget its past, another keeps it as it is. Here as a
language model; the encoder and decoder of the paper are those of `Seq2Seq` and `BahdanauAttention`.

    r = sigmoid(W_r x + U_r h)    z = sigmoid(W_z x + U_z h)    n = tanh(W x + r * (U h))    h' = z * h + (1 - z) * n

Deviations: as `nn.GRU` and cuDNN have it, the reset gate acts behind the matrix, r * (U h), in the paper before it, U (r * h);
each sum has its biases. "char" and "word" are ours, for a CPU.
"""

from typing import Any

from torch import nn

from dl.modules.RNN.RNN.model import RecurrentLanguageModel

PRESETS: dict[str, dict[str, Any]] = {
    "word": {"vocab_size": 33_278, "dim": 256, "hidden_dim": 320, "dropout": 0.2, "cutoffs": (2000, 10_000)},
    "char": {"vocab_size": 65, "dim": 64, "hidden_dim": 320},
    "tiny": {"vocab_size": 11, "dim": 6, "hidden_dim": 8, "depth": 2},
}


def build(preset: str = "word", **overrides: Any) -> RecurrentLanguageModel:
    """A GRU by the name of its preset; `overrides` are arguments of `RecurrentLanguageModel`."""
    return RecurrentLanguageModel(nn.GRU, **{**PRESETS[preset], **overrides})
