import pytest
import torch
from torch import nn

from dl.mytorch import layers


@pytest.mark.parametrize("p", [0.01, 0.25, 0.9])
def test_the_mean_stays(p: float) -> None:
    x = torch.ones(400_001)
    y = layers.FastDropout(p)(x)
    assert y.mean() == pytest.approx(1, abs=0.03)
    assert (y == 0).float().mean() == pytest.approx(p, abs=0.004)
    assert len(y.unique()) == 2  # 0, and all that stay the same


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        layers.FastDropout(p)(torch.ones(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_quick_draws_are_as_independent_as_torch_s_and_gradients_go_where_numbers_stay(dtype: torch.dtype) -> None:
    """64 bits are drawn at a time, for four neighbours: pairs of these are dropped as often as chance has it."""
    x = torch.ones(1000, 400, dtype=dtype, requires_grad=True)
    y = layers.FastDropout(0.5)(x)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad, y)
    gone = (y == 0).float()
    for step in (1, 2, 3, 4, 8):
        both = gone[:, step:] * gone[:, :-step]
        assert both.mean() == pytest.approx(0.25, abs=0.005), step
    assert (gone[1:] * gone[:-1]).mean() == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9, 1.0])
def test_fast_dropout_at_the_ends(p: float) -> None:
    x = torch.ones(1000)
    # p is rounded to a 65,536th, but neither to 0 nor to 1: of 1,000 numbers 0.015 are expected on the other side
    assert layers.FastDropout(p)(x).count_nonzero() == pytest.approx(1000 if p < 0.5 else 0, abs=0 if p in (0, 1) else 5)
    assert torch.equal(layers.FastDropout(p).eval()(x), x)
    assert layers.FastDropout(p)(torch.empty(0, 5)).shape == (0, 5)


def test_a_seed_repeats_what_fast_dropout_drops() -> None:
    def draw() -> torch.Tensor:
        torch.manual_seed(0)
        return layers.FastDropout(0.3)(torch.ones(7, 9))

    assert torch.equal(draw(), draw())


def test_a_model_takes_fast_dropout_wherever_it_had_torch_s() -> None:
    block = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.25), nn.Dropout2d(0.5)))
    model = layers.use_fast_dropout(nn.ModuleDict({"block": block, "dropout": nn.Dropout(0.1)}).eval())
    found = {name: (type(module), module.p, module.training) for name, module in model.named_modules() if hasattr(module, "p")}
    fast = layers.FastDropout
    assert found == {"dropout": (fast, 0.1, False), "block.1.0": (fast, 0.25, False), "block.1.1": (nn.Dropout2d, 0.5, False)}
