"""`SqueezeExcitation` by hand."""

from typing import Callable

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.layers import SqueezeExcitation


@pytest.mark.parametrize(
    ("act", "formula"), [(nn.ReLU(), lambda z: z.clamp(min=0)), (nn.SiLU(), lambda z: z / (1 + torch.exp(-z)))]
)
def test_each_channel_is_scaled_by_its_gate(act: nn.Module, formula: Callable[[Tensor], Tensor]) -> None:
    layer = SqueezeExcitation(4, 2, act)
    x = torch.randn(3, 4, 5, 6)
    y = layer(x)
    (w1, b1), (w2, b2) = ((fc.weight.flatten(1), fc.bias) for fc in (layer.fc1, layer.fc2))
    assert w1.shape == (2, 4) and w2.shape == (4, 2)
    for i in range(3):
        means = torch.stack([x[i, c].mean() for c in range(4)])
        gates = 1 / (1 + torch.exp(-(w2 @ formula(w1 @ means + b1) + b2)))
        for c in range(4):
            torch.testing.assert_close(y[i, c], gates[c] * x[i, c])
