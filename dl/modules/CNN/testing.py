"""What the tests of convolutional networks share."""

from typing import Callable

import torch
from torch import nn

from dl.mytorch import Probe
from dl.mytorch.introspect import without_values


def side_before_pooling(model: nn.Module, size: int) -> int:
    """Return the side of the layer `last`'s maps for colour images of `size` pixels a side; `model` has no values."""
    with without_values(), Probe(model, "last") as probe:
        model(torch.empty(2, 3, size, size))
    return probe["last"].shape[-1]


def assert_dropout_is_before_the_linear_layer(build: Callable[..., nn.Module]) -> None:
    """Check layers `pool`, `dropout`, `head`: half of what is pooled is dropped, the rest is doubled before the logits."""
    model = build("tiny", dropout=0.5)
    with Probe(model, "pool", "dropout") as probe:
        logits = model(torch.randn(64, 3, 8, 8))
    dropped = probe["dropout"] == 0
    assert 0.4 < dropped.float().mean() < 0.8
    torch.testing.assert_close(probe["dropout"], torch.where(dropped, 0, 2 * probe["pool"].flatten(1)))
    torch.testing.assert_close(logits, model.head(probe["dropout"]))
