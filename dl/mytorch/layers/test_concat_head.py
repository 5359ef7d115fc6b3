"""The head over joined features."""

import torch
from torch import nn

from dl.mytorch.layers import ConcatHead


def test_features_are_joined_in_the_order_of_the_call() -> None:
    head = ConcatHead([2, 3], hidden_dim=4, out_dim=5, activation=nn.Tanh)
    a, b = torch.randn(6, 2), torch.randn(6, 3)
    hidden = torch.tanh(torch.cat([a, b], dim=1) @ head.hidden.weight.T + head.hidden.bias)
    torch.testing.assert_close(head(a, b), hidden @ head.output.weight.T + head.output.bias)


def test_sources_act_together_not_each_for_itself() -> None:
    """A linear layer on the joined vector satisfies f(a, b) - f(0, b) = f(a, 0) - f(0, 0); it cannot learn exclusive or."""
    head = ConcatHead([4, 4], hidden_dim=16, out_dim=1)
    a, b, zero = torch.randn(8, 4), torch.randn(8, 4), torch.zeros(8, 4)
    assert ((head(a, b) - head(zero, b)) - (head(a, zero) - head(zero, zero))).abs().max() > 1e-3


def test_exclusive_or_of_two_sources_is_learnt() -> None:
    a, b = torch.tensor([[0.0], [0], [1], [1]]), torch.tensor([[0.0], [1], [0], [1]])
    target = (a != b).float()
    head = ConcatHead([1, 1], hidden_dim=16, out_dim=1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(150):
        loss = nn.functional.binary_cross_entropy_with_logits(head(a, b), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_dropout_is_on_the_hidden_layer_in_training_only() -> None:
    head = ConcatHead([4], hidden_dim=8, out_dim=3, dropout=1.0)
    x = torch.randn(2, 4)
    assert torch.equal(head(x), head.output.bias.expand(2, 3))
    assert not torch.equal(head.eval()(x), head.output.bias.expand(2, 3))
