"""First weights against torch's, draw for draw, and against the laws they follow."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch.from_scratch.layers import initializers

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("xavier_uniform_", {}),
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {"gain": 0.5}),
    ("kaiming_uniform_", {"a": 0.3}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", {}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"}),
    ("orthogonal_", {"gain": 1.5}),
    ("trunc_normal_", {}),
    ("trunc_normal_", {"mean": 0.3, "std": 0.7, "a": -0.5, "b": 1.0}),
]


@pytest.mark.parametrize(("name", "options"), CALLS)
@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 2, 5, 1)])
def test_a_seed_gives_torch_s_numbers(name: str, options: dict[str, Any], shape: tuple[int, ...]) -> None:
    drawn = []
    for module in (initializers, nn.init):
        tensor = torch.zeros(shape, dtype=torch.float64)
        assert getattr(module, name)(tensor, **options, generator=torch.Generator().manual_seed(5)) is tensor
        drawn.append(tensor)
    torch.testing.assert_close(*drawn, rtol=0, atol=1e-14)
    assert drawn[0].std() > 0


@pytest.mark.parametrize("name", ["linear", "conv2d", "sigmoid", "tanh", "relu", "selu", "leaky_relu"])
@pytest.mark.parametrize("slope", [None, 0.2])
def test_gains_are_torch_s(name: str, slope: float | None) -> None:
    assert initializers.calculate_gain(name, slope) == pytest.approx(nn.init.calculate_gain(name, slope), abs=1e-15)


def test_what_has_no_gain_or_no_fans_is_refused() -> None:
    with pytest.raises(ValueError, match="no gain is known for 'sine'"):
        initializers.calculate_gain("sine")
    with pytest.raises(ValueError, match="fan_in or fan_out"):
        initializers.kaiming_normal_(torch.zeros(2, 2), mode="fan_up")
    for initialize in (initializers.xavier_uniform_, initializers.orthogonal_):
        with pytest.raises(ValueError, match=r"\(3,\)"):
            initialize(torch.zeros(3))


def test_orthogonal_rows_have_the_length_of_the_gain() -> None:
    weight = initializers.orthogonal_(torch.empty(3, 2, 2, dtype=torch.float64), gain=2).flatten(1)
    torch.testing.assert_close(weight @ weight.T, 4 * torch.eye(3, dtype=torch.float64))


def test_he_s_weights_keep_the_mean_square_through_layers_of_relu() -> None:
    x = torch.randn(10, 500)
    for _ in range(10):
        x = (x @ initializers.kaiming_normal_(torch.empty(500, 500), nonlinearity="relu").T).clamp_min(0)
    assert 1 / 3 < x.square().mean() < 3  # without the gain of sqrt(2) it would be 1 / 1024


def test_truncated_numbers_lie_within_their_bounds_and_have_the_truncated_deviation() -> None:
    drawn = initializers.trunc_normal_(torch.empty(20_000), std=2.0, a=-2, b=2)
    assert drawn.abs().max() <= 2
    # Of a normal variable cut off at one deviation: 1 - 2 phi(1) / (2 Phi(1) - 1), the share of its variance that is left.
    share = 1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(1 / math.sqrt(2))
    assert drawn.std() == pytest.approx(2 * math.sqrt(share), rel=0.02)
