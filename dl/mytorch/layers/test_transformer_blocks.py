"""The feed-forward of a transformer."""

import torch

from dl.mytorch.layers import feed_forward


def test_feed_forward_acts_at_each_position_alone() -> None:
    layer, x = feed_forward(4, 6), torch.randn(2, 3, 4)
    for t in range(3):
        torch.testing.assert_close(layer(x)[:, t], layer(x[:, t]))
