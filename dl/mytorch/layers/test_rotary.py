"""Rotary positions against complex numbers, and by their law."""

import pytest
import torch

from dl.mytorch.layers import RotaryPositions


@pytest.fixture
def rotary() -> RotaryPositions:
    torch.set_default_dtype(torch.float64)
    try:
        return RotaryPositions(12, 6, base=100.0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_pairs_are_multiplied_by_complex_numbers_of_modulus_one(rotary: RotaryPositions) -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    pairs = torch.complex(x[..., :3], x[..., 3:])
    angle = torch.arange(4, 9)[:, None] * torch.tensor([1.0, 100 ** (-1 / 3), 100 ** (-2 / 3)], dtype=torch.float64)
    expected = pairs * torch.exp(1j * angle)
    difference = rotary(x, start=4) - torch.cat([expected.real, expected.imag], dim=-1)
    assert difference.abs().max() <= 1e-12
    assert not rotary.state_dict()


def test_products_depend_on_the_distance_alone(rotary: RotaryPositions) -> None:
    query, key = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64)
    near, far = ((rotary(query, start=t + 3) * rotary(key, start=t)).sum() for t in (0, 8))
    assert abs(near - far) <= 1e-12
    assert abs(near - (rotary(query, start=2) * rotary(key, start=0)).sum()) > 1e-3


def test_odd_heads_and_positions_beyond_the_last_are_refused(rotary: RotaryPositions) -> None:
    with pytest.raises(ValueError, match="width has to be even; got 5"):
        RotaryPositions(4, 5)
    with pytest.raises(ValueError, match="13 positions are asked for, the model has 12"):
        rotary(torch.zeros(1, 1, 3, 6), start=10)
