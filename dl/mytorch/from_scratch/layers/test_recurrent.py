"""Cells and recurrent layers against torch's, for padded and packed sequences, and one by one."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from dl.mytorch.from_scratch import layers
from dl.mytorch.testing import assert_same_function

KINDS = ["RNN", "LSTM", "GRU"]
C, H = 3, 4  # widths of input and state


def states(kind: str, *shape: int) -> object:
    return (torch.randn(shape).double(), torch.randn(shape).double()) if kind == "LSTM" else torch.randn(shape).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_cells_equal_torch_s(kind: str, bias: bool) -> None:
    own, twin = (getattr(module, f"{kind}Cell")(C, H, bias=bias) for module in (layers, nn))
    assert_same_function(own, twin, torch.randn(5, C))
    assert_same_function(own, twin, torch.randn(5, C), states(kind, 5, H))
    assert_same_function(own, twin, torch.randn(0, C))
    assert_same_function(own, twin, torch.randn(C))
    assert_same_function(own, twin, torch.randn(C), states(kind, H))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("depth", "bidirectional"), [(1, False), (1, True), (3, False), (2, True)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [False, True])
def test_layers_equal_torch_s(kind: str, depth: int, bidirectional: bool, bias: bool, batch_first: bool) -> None:
    options = {"bias": bias, "batch_first": batch_first, "bidirectional": bidirectional}
    own, twin = (getattr(module, kind)(C, H, depth, **options) for module in (layers, nn))
    assert_same_function(own, twin, torch.randn(5, 2, C))
    assert_same_function(own, twin, torch.randn(2, 2, C), states(kind, depth * (1 + bidirectional), 2, H))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_order", [True, False])
@pytest.mark.parametrize("start", [True, False])
def test_packed_sequences_run_as_torch_s(kind: str, in_order: bool, start: bool) -> None:
    own, twin = (getattr(module, kind)(C, H, 2, bidirectional=True) for module in (layers, nn))
    lengths = [5, 4, 4, 1] if in_order else [4, 1, 5, 4]
    hx = states(kind, 4, 4, H) if start else None

    def packed(layer: nn.Module, x: torch.Tensor) -> tuple:
        return layer(pack_padded_sequence(x, lengths, enforce_sorted=in_order), hx)

    own.double().load_state_dict(twin.double().state_dict())
    x = torch.randn(5, 4, C)
    assert_same_function(lambda x: packed(own, x), lambda x: packed(twin, x), x)
    output = packed(own, x.double())[0]
    assert isinstance(output, PackedSequence)
    assert pad_packed_sequence(output)[1].tolist() == lengths


@pytest.mark.parametrize("kind", KINDS)
def test_padded_packed_and_single_sequences_agree(kind: str) -> None:
    layer = getattr(layers, kind)(C, H, 2).double()
    lengths, x = [4, 1, 5], torch.randn(5, 3, C).double()
    packed, last = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    output, last = pad_packed_sequence(packed)[0], last[0] if kind == "LSTM" else last
    padded = layer(x)[0]
    for i, length in enumerate(lengths):
        alone, end = layer(x[:length, i : i + 1])
        end = end[0] if kind == "LSTM" else end
        torch.testing.assert_close(output[:length, i], alone[:, 0], rtol=0, atol=1e-12)
        torch.testing.assert_close(padded[:length, i], alone[:, 0], rtol=0, atol=1e-12)
        torch.testing.assert_close(last[:, i], end[:, 0], rtol=0, atol=1e-12)
        assert not output[length:, i].any()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_gives_an_empty_batch(kind: str) -> None:
    output, last = getattr(layers, kind)(C, H, 2, bidirectional=True)(torch.randn(3, 0, C))
    last = last[0] if kind == "LSTM" else last
    assert output.shape == (3, 0, 2 * H) and last.shape == (4, 0, H)


def test_relu_networks_equal_torch_s() -> None:
    assert_same_function(layers.RNN(C, H, 2, "relu"), nn.RNN(C, H, 2, "relu"), torch.randn(4, 2, C))
    assert_same_function(layers.RNNCell(C, H, nonlinearity="relu"), nn.RNNCell(C, H, nonlinearity="relu"), torch.randn(4, C))
    for build in (layers.RNN, layers.RNNCell):
        with pytest.raises(ValueError, match="tanh"):
            build(C, H, nonlinearity="sine")


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers_draws_what_torch_s_draws_and_ends_in_evaluation(kind: str) -> None:
    own, twin = (getattr(module, kind)(C, H, 2, dropout=0.5) for module in (layers, nn))
    x = torch.randn(4, 2, C)
    assert_same_function(own, twin, x)
    assert not torch.equal(own(x.double())[0], own(x.double())[0])
    assert_same_function(own.eval(), twin.eval(), x)
    assert torch.equal(own(x.double())[0], own(x.double())[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_weights_that_torch_s_layers_have(kind: str) -> None:
    weights = []
    for module in (layers, nn):
        torch.manual_seed(3)
        weights.append(getattr(module, kind)(C, H, 2, bidirectional=True).state_dict())
    assert list(weights[0]) == list(weights[1])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_gradients_equal_finite_differences() -> None:
    for kind in KINDS:
        layer = getattr(layers, kind)(2, 2).double()
        names, values = zip(*layer.named_parameters())

        def run(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
            return torch.func.functional_call(layer, dict(zip(names, values)), x)[0]

        assert torch.autograd.gradcheck(run, (torch.randn(2, 1, 2).double().requires_grad_(), *values))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_number_types_give_torch_s_outputs_within_their_precision(kind: str, dtype: torch.dtype) -> None:
    own, twin = (getattr(module, kind)(C, H, dtype=dtype) for module in (layers, nn))
    own.load_state_dict(twin.state_dict())
    x = torch.randn(4, 2, C, dtype=dtype)
    torch.testing.assert_close(own(x)[0], twin(x)[0], rtol=0, atol=4 * torch.finfo(dtype).eps)
