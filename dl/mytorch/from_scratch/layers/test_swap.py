"""Inside `from_scratch`, torch.nn has our layers; outside, torch's again. Full models are in ../test_models.py."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dl.mytorch.from_scratch import layers
from dl.mytorch.from_scratch.layers.conv import conv2d
from dl.mytorch.from_scratch.layers.initializers import orthogonal_
from dl.mytorch.from_scratch.layers.swap import from_scratch, ours
from dl.mytorch.testing import assert_same_function

LEFT_OUT = {"max_norm", "norm_type", "scale_grad_by_freq", "sparse", "_weight", "_freeze", "_stacklevel"}
LEFT_OUT |= {"padding_mode", "output_size"}


def test_torch_nn_has_our_layers_inside_and_its_own_outside() -> None:
    before = (nn.Linear, F.conv2d, nn.init.orthogonal_)
    with from_scratch():
        assert nn.Linear is layers.Linear and F.conv2d is conv2d and nn.init.orthogonal_ is orthogonal_
        assert nn.Sequential.__module__.startswith("torch.")
    assert (nn.Linear, F.conv2d, nn.init.orthogonal_) == before


def test_an_error_inside_brings_torch_s_layers_back() -> None:
    before = nn.Linear
    with pytest.raises(RuntimeError, match="inside"), from_scratch():
        raise RuntimeError("inside")
    assert nn.Linear is before


def test_layers_and_functions_take_the_arguments_of_torch_s_in_its_order() -> None:
    found = list(ours())
    assert {"Linear", "LSTM", "GELU", "conv2d", "layer_norm", "kaiming_normal_"} <= {name for _, name, _ in found}
    for home, name, own in found:
        theirs = getattr(home, name)
        try:
            expected = [argument for argument in inspect.signature(theirs).parameters if argument not in LEFT_OUT]
            given = [a for a in inspect.signature(own).parameters if a not in {"factory", *LEFT_OUT}]
        except ValueError:  # a function written in C++ does not tell its arguments
            continue
        if "args" not in expected:  # torch's recurrent layers do not tell theirs either
            assert [a for a in given if a in expected] == [a for a in expected if a in given], name
            assert set(expected) - set(given) <= {"dtype", "device"} and set(given) - set(expected) <= {"bias"}, name


def test_every_layer_of_the_families_is_exported() -> None:
    missing = {name for home, name, _ in ours() if home is nn} - set(layers.__all__)
    assert not missing


class Language(nn.Module):
    """Logits of the next token from a recurrent network."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True, dropout=0.3, bidirectional=True)
        self.head = nn.Linear(16, 20)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.lstm(self.embedding(tokens))[0], 0.2, self.training))


@pytest.mark.parametrize("training", [True, False])
def test_a_recurrent_model_built_from_either_gives_the_same_logits(training: bool) -> None:
    torch.manual_seed(4)
    twin = Language().train(training)
    torch.manual_seed(4)
    with from_scratch():
        own = Language().train(training)
    assert type(own.lstm) is layers.LSTM and type(twin.lstm) is nn.LSTM
    assert own.state_dict().keys() == twin.state_dict().keys()
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in own.state_dict().items())
    assert_same_function(own, twin, torch.randint(20, (3, 7)))
