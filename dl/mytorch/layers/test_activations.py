"""Activations by name."""

import pytest
from torch import nn

from dl.mytorch.layers.activations import ACTIVATIONS, activation_name


def test_a_name_makes_the_layer_that_has_it() -> None:
    assert [activation_name(make()) for make in ACTIVATIONS.values()] == ["gelu", "gelu_new", "gelu_new", "relu", "silu"]
    with pytest.raises(ValueError, match="Tanh"):
        activation_name(nn.Tanh())
