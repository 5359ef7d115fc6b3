"""Layers in a row, each with a name."""

from collections import OrderedDict

from torch import nn


def sequential(**layers: nn.Module) -> nn.Sequential:
    """`nn.Sequential` whose layers have names: `sequential(conv1=nn.Conv2d(1, 6, 5), act1=nn.ReLU())`.

    The names are those of the state dict, of `layer_summary` and of `Probe`.
    """
    return nn.Sequential(OrderedDict(layers))
