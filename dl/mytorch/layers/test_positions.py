"""Times by their formula."""

import math

import torch

from dl.mytorch.layers import time_frequencies


def test_time_is_told_by_sines_then_cosines_from_fast_to_slow() -> None:
    table = time_frequencies(torch.tensor([0, 3, 500]), 8).double()
    for row, t in zip(table, (0, 3, 500)):
        angles = torch.tensor([t * 10000 ** (-i / 3) for i in range(4)], dtype=torch.float64)
        torch.testing.assert_close(row, torch.cat([angles.sin(), angles.cos()]), atol=1e-4, rtol=0)
    slower = time_frequencies(torch.tensor([1]), 8, shift=0)[0, :4].double()
    expected = torch.tensor([math.sin(10000 ** (-i / 4)) for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(slower, expected, atol=1e-6, rtol=0)
