"""Activations by their names in configurations of transformers."""

from functools import partial
from typing import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}


def activation_name(layer: nn.Module) -> str:
    """Return the name in `ACTIVATIONS` of what makes a layer like `layer`. Raises `ValueError` for any other one."""
    for name, make in ACTIVATIONS.items():
        if repr(make()) == repr(layer):
            return name
    raise ValueError(f"an activation {layer} has none of the names {', '.join(ACTIVATIONS)}")
