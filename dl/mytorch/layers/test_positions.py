"""Positions and times by their formulas."""

import math

import pytest
import torch

from dl.mytorch.layers import sinusoidal_positions, time_frequencies


def test_sinusoidal_positions_are_those_of_section_3_5() -> None:
    table = sinusoidal_positions(50, 6)
    for t in range(50):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_a_shift_of_the_position_is_a_rotation_of_each_pair() -> None:
    """What section 3.5 hopes for: PE(t + k) is a linear function of PE(t)."""
    pairs = torch.view_as_complex(sinusoidal_positions(40, 8).unflatten(1, (4, 2)).flip(-1).contiguous())  # cos + i sin
    turns = pairs[7] / pairs[0]
    torch.testing.assert_close(pairs[:33] * turns, pairs[7:])


def test_an_odd_width_of_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="even; got 5"):
        sinusoidal_positions(3, 5)


def test_time_is_told_by_sines_then_cosines_from_fast_to_slow() -> None:
    table = time_frequencies(torch.tensor([0, 3, 500]), 8).double()
    for row, t in zip(table, (0, 3, 500)):
        angles = torch.tensor([t * 10000 ** (-i / 3) for i in range(4)], dtype=torch.float64)
        torch.testing.assert_close(row, torch.cat([angles.sin(), angles.cos()]), atol=1e-4, rtol=0)
    slower = time_frequencies(torch.tensor([1]), 8, shift=0)[0, :4].double()
    expected = torch.tensor([math.sin(10000 ** (-i / 4)) for i in range(4)], dtype=torch.float64)
    torch.testing.assert_close(slower, expected, atol=1e-6, rtol=0)
