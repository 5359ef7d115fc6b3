"""`sequential` is `nn.Sequential` with names."""

import torch
from torch import nn

from dl.mytorch.layers import sequential


def test_layers_run_in_the_order_in_which_they_are_written() -> None:
    double, add_one = nn.Linear(1, 1), nn.Linear(1, 1)
    with torch.no_grad():
        for layer, weight, bias in ((double, 2.0, 0.0), (add_one, 1.0, 1.0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    x = torch.tensor([[3.0]])
    assert sequential(zuerst=double, after=add_one)(x).item() == 7  # not in the order of the alphabet
    assert sequential(after=add_one, zuerst=double)(x).item() == 8


def test_names_are_those_of_modules_and_state_dict() -> None:
    model = sequential(conv1=nn.Conv2d(1, 6, 5), act1=nn.ReLU())
    assert isinstance(model, nn.Sequential)
    assert [name for name, _ in model.named_children()] == ["conv1", "act1"]
    assert list(model.state_dict()) == ["conv1.weight", "conv1.bias"]
    assert model.conv1 is model[0]
