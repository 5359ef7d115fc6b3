"""What torch's layers refuse, ours refuse: they never silently compute something else."""

import importlib
from types import SimpleNamespace
from typing import Any, Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.from_scratch.layers.conv import conv2d_by_sums

Z = torch.zeros

OURS = {home: SimpleNamespace() for home in (nn, F, nn.init)}
for place, name, thing in importlib.import_module("dl.mytorch.from_scratch.layers.swap").ours():
    setattr(OURS[place], name, thing)


def T(*shape: int) -> Tensor:
    """Zeros of int64."""
    return torch.zeros(*shape, dtype=torch.int64)


# Each is a call of something in torch.nn (nn), its functional (F) or its init (init).
REFUSED: dict[str, list[Callable[[Any, Any, Any], Any]]] = {
    "embedding": [
        lambda nn, F, init: nn.Embedding(5, 3, padding_idx=5),
        lambda nn, F, init: nn.Embedding(5, 3, padding_idx=-6),
        lambda nn, F, init: nn.Embedding(0, 3, padding_idx=0),
        lambda nn, F, init: nn.Embedding(-1, 3),
        lambda nn, F, init: nn.Embedding(5, 3)(Z(2)),
        lambda nn, F, init: nn.Embedding(5, 3)(Z(2).bool()),
        lambda nn, F, init: nn.Embedding(5, 3)(Z(2).short()),
        lambda nn, F, init: nn.Embedding(5, 3)(Z(2).byte()),
        lambda nn, F, init: nn.Embedding(5, 3)(T(2) + 5),
        lambda nn, F, init: nn.Embedding(5, 3)(T(2) - 1),
        lambda nn, F, init: nn.Embedding(5, 3, dtype=torch.int64),
        lambda nn, F, init: F.embedding(T(2), Z(5, 3), padding_idx=5),
        lambda nn, F, init: F.embedding(T(2), Z(5, 3), padding_idx=-6),
        lambda nn, F, init: F.embedding(T(2), Z(5)),
        lambda nn, F, init: F.embedding(T(2), Z(5, 2, 2)),
    ],
    "linear": [
        lambda nn, F, init: nn.Linear(-1, 2),
        lambda nn, F, init: nn.Linear(3, 2, dtype=torch.int32),
        lambda nn, F, init: nn.Linear(3, 2)(Z(2, 4)),
        lambda nn, F, init: nn.Linear(1, 2)(Z(())),
        lambda nn, F, init: nn.Linear(3, 2)(Z(2, 3).double()),
        lambda nn, F, init: F.linear(Z(2, 3), Z(2, 2, 3)),
        lambda nn, F, init: F.linear(Z(4, 3), Z(2, 3), Z(3)),
        lambda nn, F, init: F.linear(Z(4, 3), Z(2, 3), Z(2).double()),
        lambda nn, F, init: F.linear(Z(4, 3), Z(2, 3), T(2)),
    ],
    "pooling": [
        lambda nn, F, init: nn.MaxPool2d(2, padding=2)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(5, padding=3)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d((4, 2), padding=(2, 2))(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2, padding=-1)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2, stride=0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2, stride=-1)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2, dilation=0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(9)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(3, dilation=4)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2)(Z(8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2)(Z(1, 1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2)(Z(1, 0, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2)(Z(1, 1, 0, 8)),
        lambda nn, F, init: nn.MaxPool2d((2, 2, 2))(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.MaxPool2d(2)(Z(1, 1, 8, 8).bool()),
        lambda nn, F, init: nn.MaxPool2d(2)(Z(1, 1, 8, 8) + 0j),
        lambda nn, F, init: nn.AvgPool2d(2, padding=2)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AvgPool2d(2, padding=-1)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AvgPool2d(0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AvgPool2d(2, stride=0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AvgPool2d(9)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AvgPool2d(2, divisor_override=0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AvgPool2d(2)(Z(8, 8)),
        lambda nn, F, init: nn.AvgPool2d(2)(T(1, 1, 8, 8).int()),
        lambda nn, F, init: nn.AvgPool2d(2)(Z(1, 1, 0, 8)),
        lambda nn, F, init: nn.AvgPool2d(2)(Z(1, 0, 8, 8)),
        lambda nn, F, init: nn.AdaptiveAvgPool2d(-1)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AdaptiveAvgPool2d(2)(Z(1, 1, 0, 8)),
        lambda nn, F, init: nn.AdaptiveAvgPool2d(2)(Z(8, 8)),
        lambda nn, F, init: nn.AdaptiveAvgPool2d(2)(Z(1, 1, 1, 8, 8)),
        lambda nn, F, init: nn.AdaptiveAvgPool2d((2, 2, 2))(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AdaptiveAvgPool2d(2.0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.AdaptiveAvgPool2d(2)(T(1, 1, 8, 8)),
    ],
    "conv2d": [
        lambda nn, F, init: nn.Conv2d(1, 1, 9)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, (9, 1))(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, 3, dilation=4)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, 0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, 1, stride=0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, 1, stride=-1)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, 3, dilation=0)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, 1, padding=-1)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, 1, groups=0),
        lambda nn, F, init: nn.Conv2d(1, 1, 1, groups=-1),
        lambda nn, F, init: nn.Conv2d(3, 4, 1, groups=2),
        lambda nn, F, init: nn.Conv2d(4, 3, 1, groups=2),
        lambda nn, F, init: nn.Conv2d(4, 0, 1)(Z(1, 4, 8, 8)),
        lambda nn, F, init: nn.Conv2d(4, -1, 1),
        lambda nn, F, init: nn.Conv2d(1, 1, 1, padding="full"),
        lambda nn, F, init: nn.Conv2d(1, 1, 3, padding="same", stride=2),
        lambda nn, F, init: nn.Conv2d(1, 1, 3, padding_mode="mirror"),
        lambda nn, F, init: nn.Conv2d(1, 1, 3, padding=8, padding_mode="reflect")(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(2, 1, 1)(Z(1, 3, 8, 8)),
        lambda nn, F, init: nn.Conv2d(2, 1, 1)(Z(1, 4, 8, 8)),
        lambda nn, F, init: nn.Conv2d(2, 1, 1)(Z(8, 8)),
        lambda nn, F, init: nn.Conv2d(2, 1, 1)(Z(1, 2, 1, 8, 8)),
        lambda nn, F, init: nn.Conv2d(2, 1, 1, dtype=torch.int64),
        lambda nn, F, init: nn.Conv2d(2, 1, 1)(Z(1, 2, 8, 8).double()),
        lambda nn, F, init: nn.Conv2d(2, 1, 1)(T(1, 2, 8, 8)),
        lambda nn, F, init: nn.Conv2d(2, 1, 1)(Z(1, 2, 0, 8)),
        lambda nn, F, init: nn.Conv2d(2, 1, 3, padding=1)(Z(1, 2, 0, 8)),
        lambda nn, F, init: nn.Conv2d(1, 1, (1, 1, 1))(Z(1, 1, 8, 8)),
        lambda nn, F, init: F.conv2d(Z(1, 2, 8, 8), Z(3, 2, 1, 1), Z(1)),
        lambda nn, F, init: F.conv2d(Z(1, 2, 8, 8), Z(3, 2, 1, 1), Z(8)),
        lambda nn, F, init: F.conv2d(Z(1, 2, 8, 8), Z(3, 2, 1, 1), Z(3, 1)),
        lambda nn, F, init: F.conv2d(Z(1, 2, 8, 8), Z(3, 2, 1)),
        lambda nn, F, init: F.conv2d(Z(1, 4, 8, 8), Z(3, 2, 1, 1), groups=2),
        lambda nn, F, init: F.conv2d(Z(1, 4, 8, 8), Z(3, 4, 1, 1), groups=0),
        lambda nn, F, init: F.conv2d(Z(1, 2, 8, 8), Z(3, 2, 1, 1), padding="same", stride=2),
    ],
    "conv1d": [
        lambda nn, F, init: nn.Conv1d(1, 1, 9)(Z(1, 1, 8)),
        lambda nn, F, init: nn.Conv1d(1, 1, 1, stride=0)(Z(1, 1, 8)),
        lambda nn, F, init: nn.Conv1d(1, 1, 0)(Z(1, 1, 8)),
        lambda nn, F, init: nn.Conv1d(1, 1, 1, padding=-1)(Z(1, 1, 8)),
        lambda nn, F, init: nn.Conv1d(1, 1, 2, dilation=0)(Z(1, 1, 8)),
        lambda nn, F, init: nn.Conv1d(1, 1, 1)(Z(1, 1, 8, 8)),
        lambda nn, F, init: nn.Conv1d(1, 1, 1, padding="full"),
        lambda nn, F, init: nn.Conv1d(1, 1, 3, padding="same", stride=2),
        lambda nn, F, init: nn.Conv1d(1, 1, (1, 1))(Z(1, 1, 8)),
        lambda nn, F, init: nn.Conv1d(1, 1, 1, groups=0),
    ],
    "conv_transpose2d": [
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, stride=2, output_padding=2)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, stride=2, output_padding=-1)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, padding=-1)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, padding=5)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, padding=3)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, stride=0)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, dilation=0)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 0)(Z(1, 1, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(2, 1, 3)(Z(1, 3, 4, 4)),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3, groups=0),
        lambda nn, F, init: nn.ConvTranspose2d(3, 2, 3, groups=2),
        lambda nn, F, init: nn.ConvTranspose2d(1, 1, 3)(Z(1, 1, 0, 4)),
        lambda nn, F, init: F.conv_transpose2d(Z(1, 2, 4, 4), Z(2, 3, 3, 3), Z(1)),
    ],
    "activations": [
        lambda nn, F, init: F.softmax(Z(2, 3), dim=2),
        lambda nn, F, init: F.softmax(T(2, 3), dim=1),
        lambda nn, F, init: F.log_softmax(T(2, 3), dim=1),
        lambda nn, F, init: nn.GELU("sigmoid")(Z(2)),
        lambda nn, F, init: nn.GELU()(T(2)),
        lambda nn, F, init: nn.SiLU()(T(2)),
        lambda nn, F, init: nn.ELU()(T(2)),
        lambda nn, F, init: nn.Softplus()(T(2)),
        lambda nn, F, init: nn.LeakyReLU()(T(2)),
        lambda nn, F, init: nn.ReLU()(Z(2).bool()),
        lambda nn, F, init: nn.ReLU()(Z(2) + 0j),
        lambda nn, F, init: nn.ReLU6()(Z(2).bool()),
    ],
    "dropout": [
        lambda nn, F, init: nn.Dropout(1.5),
        lambda nn, F, init: nn.Dropout(-0.5),
        lambda nn, F, init: nn.Dropout(float("nan"))(Z(3)),
        lambda nn, F, init: F.dropout(Z(3), 2.0, training=False),
        lambda nn, F, init: nn.Dropout(0.5)(T(3)),
    ],
    "norms": [
        lambda nn, F, init: nn.BatchNorm1d(2)(Z(2, 2, 2, 2)),
        lambda nn, F, init: nn.BatchNorm2d(2)(Z(2, 2)),
        lambda nn, F, init: nn.BatchNorm2d(2)(Z(2, 3, 2, 2)),
        lambda nn, F, init: nn.BatchNorm2d(2).eval()(Z(2, 3, 2, 2)),
        lambda nn, F, init: nn.BatchNorm2d(2, affine=False)(Z(2, 3, 2, 2)),
        lambda nn, F, init: nn.BatchNorm2d(1, affine=False)(Z(2, 3, 2, 2)),
        lambda nn, F, init: nn.BatchNorm1d(2)(Z(1, 2)),
        lambda nn, F, init: nn.BatchNorm2d(2)(Z(1, 2, 1, 1)),
        lambda nn, F, init: nn.BatchNorm2d(2)(T(2, 2, 2, 2)),
        lambda nn, F, init: nn.BatchNorm2d(-2),
        lambda nn, F, init: F.batch_norm(Z(2, 2), None, None),
        lambda nn, F, init: F.batch_norm(Z(2, 2), Z(2), None),
        lambda nn, F, init: F.batch_norm(Z(2, 2), Z(3), Z(3), training=True),
        lambda nn, F, init: F.batch_norm(Z(2, 2), Z(2), Z(2), Z(1)),
        lambda nn, F, init: F.batch_norm(Z(3, 2), Z(2), Z(2), eps=-1.0),
        lambda nn, F, init: F.batch_norm(Z(3, 2), Z(2), Z(2), training=True, eps=0.0),
        lambda nn, F, init: nn.LayerNorm(3)(Z(2, 4)),
        lambda nn, F, init: nn.LayerNorm([])(Z(2, 4)),
        lambda nn, F, init: nn.LayerNorm([2, 4])(Z(4)),
        lambda nn, F, init: nn.LayerNorm(4)(T(2, 4)),
        lambda nn, F, init: F.layer_norm(Z(2, 4), [4], Z(1)),
        lambda nn, F, init: F.layer_norm(Z(2, 4), [4], Z(4), Z(1)),
        lambda nn, F, init: F.layer_norm(Z(2, 4), [4], Z(2, 4)),
        lambda nn, F, init: nn.RMSNorm(3)(Z(2, 4)),
        lambda nn, F, init: nn.RMSNorm([])(Z(2, 4)),
        lambda nn, F, init: nn.RMSNorm(4)(T(2, 4)),
        lambda nn, F, init: F.rms_norm(Z(2, 4), [4], Z(1)),
        lambda nn, F, init: F.rms_norm(Z(2, 4), [4], Z(2, 4)),
        lambda nn, F, init: nn.GroupNorm(2, 3),
        lambda nn, F, init: nn.GroupNorm(0, 3),
        lambda nn, F, init: nn.GroupNorm(-1, 3)(Z(2, 3, 2)),
        lambda nn, F, init: nn.GroupNorm(2, 4)(Z(2, 6, 2)),
        lambda nn, F, init: nn.GroupNorm(2, 4, affine=False)(Z(2, 3, 2)),
        lambda nn, F, init: nn.GroupNorm(2, 2)(Z(1, 2)),
        lambda nn, F, init: nn.GroupNorm(1, 2)(Z(2)),
        lambda nn, F, init: F.group_norm(Z(2, 4, 2), 2, Z(1)),
        lambda nn, F, init: F.group_norm(Z(2, 4, 2), 2, Z(2)),
        lambda nn, F, init: F.group_norm(Z(2, 4, 2), 0),
    ],
    "init": [
        lambda nn, F, init: init.calculate_gain("sine"),
        lambda nn, F, init: init.calculate_gain("leaky_relu", True),
        lambda nn, F, init: init.calculate_gain("leaky_relu", "a"),
        lambda nn, F, init: init.xavier_uniform_(Z(3)),
        lambda nn, F, init: init.xavier_normal_(Z(3)),
        lambda nn, F, init: init.kaiming_normal_(Z(3, 3), mode="fan"),
        lambda nn, F, init: init.kaiming_normal_(Z(3)),
        lambda nn, F, init: init.kaiming_uniform_(Z(3, 3), nonlinearity="x"),
        lambda nn, F, init: init.orthogonal_(Z(3)),
        lambda nn, F, init: init.xavier_uniform_(T(3, 3)),
        lambda nn, F, init: init.trunc_normal_(T(3, 3)),
    ],
    "attention": [
        lambda nn, F, init: F.scaled_dot_product_attention(*[Z(1, 2, 4)] * 3, attn_mask=Z(2, 2).bool(), is_causal=True),
        lambda nn, F, init: F.scaled_dot_product_attention(Z(1, 2, 4), Z(1, 2, 3), Z(1, 2, 4)),
        lambda nn, F, init: F.scaled_dot_product_attention(Z(1, 2, 4), Z(1, 3, 4), Z(1, 2, 4)),
        lambda nn, F, init: F.scaled_dot_product_attention(Z(1, 3, 2, 4), Z(1, 2, 2, 4), Z(1, 2, 2, 4), enable_gqa=True),
        lambda nn, F, init: F.scaled_dot_product_attention(Z(1, 2, 4), Z(1, 2, 4), Z(1, 2, 4), attn_mask=T(2, 2)),
        lambda nn, F, init: F.scaled_dot_product_attention(Z(1, 2, 4), Z(1, 2, 4).double(), Z(1, 2, 4)),
    ],
    "recurrent": [
        lambda nn, F, init: nn.RNN(2, 0),
        lambda nn, F, init: nn.LSTM(2, 0),
        lambda nn, F, init: nn.GRU(2, 0),
        lambda nn, F, init: nn.LSTM(2, 2, num_layers=0),
        lambda nn, F, init: nn.LSTM(2, 2, num_layers=-1),
        lambda nn, F, init: nn.LSTM(2, 2, num_layers=2, dropout=1.5),
        lambda nn, F, init: nn.LSTM(2, 2, num_layers=2, dropout=-0.5),
        lambda nn, F, init: nn.LSTM(2, 2, num_layers=2, dropout=True),
        lambda nn, F, init: nn.LSTM(2, 2.0),
        lambda nn, F, init: nn.RNN(2, 2, nonlinearity="sigmoid"),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(3, 1, 4)),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(3, 1, 1, 2)),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(2)),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(3, 1, 2), (Z(2, 1, 2), Z(2, 1, 2))),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(3, 2, 2), (Z(1, 1, 2), Z(1, 1, 2))),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(3, 2, 2), (Z(1, 2, 2), Z(1, 1, 2))),
        lambda nn, F, init: nn.GRU(2, 2)(Z(3, 2, 2), Z(1, 1, 2)),
        lambda nn, F, init: nn.GRU(2, 2)(Z(3, 2, 2), Z(1, 2, 1)),
        lambda nn, F, init: nn.RNN(2, 2)(Z(3, 2, 2), Z(1, 1, 2)),
        lambda nn, F, init: nn.RNN(2, 2)(Z(3, 2, 2), Z(2, 2, 2)),
        lambda nn, F, init: nn.RNN(2, 2)(Z(0, 2, 2)),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(0, 2, 2)),
        lambda nn, F, init: nn.LSTM(2, 2, proj_size=2),
        lambda nn, F, init: nn.LSTM(2, 2)(T(3, 1, 2)),
        lambda nn, F, init: nn.LSTM(2, 2)(Z(3, 1, 2).double()),
        lambda nn, F, init: nn.GRUCell(2, 2)(Z(1, 1, 2)),
        lambda nn, F, init: nn.LSTMCell(2, 2)(Z(1, 1, 2)),
        lambda nn, F, init: nn.RNNCell(2, 2)(Z(1, 1, 2)),
        lambda nn, F, init: nn.GRUCell(2, 2)(Z(3, 2), Z(1, 2)),
        lambda nn, F, init: nn.GRUCell(2, 2)(Z(3, 2), Z(2, 2)),
        lambda nn, F, init: nn.RNNCell(2, 2)(Z(3, 2), Z(1, 2)),
        lambda nn, F, init: nn.LSTMCell(2, 2)(Z(3, 2), (Z(1, 2), Z(1, 2))),
        lambda nn, F, init: nn.LSTMCell(2, 2)(Z(3, 2), (Z(3, 2), Z(1, 2))),
        lambda nn, F, init: nn.RNNCell(2, 2, nonlinearity="sigmoid")(Z(3, 2)),
        lambda nn, F, init: nn.RNNCell(2, 2)(Z(3, 3)),
    ],
}


def refused(call: Callable[..., Any], *homes: Any) -> bool:
    try:
        call(*homes)
    except (ValueError, RuntimeError, TypeError, IndexError, AssertionError, ZeroDivisionError):
        return True
    return False


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", REFUSED)
def test_what_torch_refuses_ours_refuses(family: str) -> None:
    for i, call in enumerate(REFUSED[family]):
        assert refused(call, nn, F, nn.init), f"torch takes number {i} of {family}"
        assert refused(call, OURS[nn], OURS[F], OURS[nn.init]), f"ours takes number {i} of {family}"


def test_a_convolution_by_sums_refuses_what_the_other_does() -> None:
    for image, kernel, options in (
        ((8, 8), (9, 9), {}),
        ((8, 8), (9, 1), {}),
        ((8, 8), (3, 3), {"dilation": 4}),
        ((8, 8), (0, 0), {}),
        ((8, 8), (3, 3), {"stride": 0}),
        ((8, 8), (3, 3), {"dilation": 0}),
        ((8, 8), (3, 3), {"padding": -1}),
        ((8, 8), (3, 3), {"bias": Z(1)}),
        ((0, 8), (1, 1), {}),
    ):
        for convolve in (conv2d_by_sums, OURS[F].conv2d):
            with pytest.raises(ValueError, match="kernel|stride|dilation|padding|bias"):
                convolve(Z(1, 2, *image), Z(3, 2, *kernel), **options)


def test_softmax_is_told_its_dimension() -> None:
    """Torch guesses it from the number of dimensions, and warns."""
    for function in (OURS[F].softmax, OURS[F].log_softmax):
        with pytest.raises(TypeError, match="dim"):
            function(Z(2, 3))
    for layer in (OURS[nn].Softmax, OURS[nn].LogSoftmax):
        with pytest.raises(TypeError, match="dim"):
            layer()


def test_numbers_that_would_be_drawn_for_ever_are_refused() -> None:
    for wrong in ({"a": 3.0, "b": 2.0}, {"a": 100.0, "b": 101.0}, {"mean": -9.0}):
        with pytest.raises(ValueError, match="hardly a number"):
            OURS[nn.init].trunc_normal_(Z(3), **wrong)
