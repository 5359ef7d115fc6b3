import pytest
import torch
from torch import nn

from dl.mytorch.from_scratch import layers
from dl.mytorch.testing import assert_same_function


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_a_seed_drops_what_torch_s_drops(p: float, training: bool) -> None:
    assert_same_function(layers.Dropout(p).train(training), nn.Dropout(p).train(training), torch.randn(3, 4, 5))
    assert_same_function(layers.Dropout(p).train(training), nn.Dropout(p).train(training), torch.randn(0, 5))


@pytest.mark.parametrize("p", [0.01, 0.25, 0.9])
def test_the_mean_stays(p: float) -> None:
    x = torch.ones(400_001)
    y = layers.Dropout(p)(x)
    assert y.mean() == pytest.approx(1, abs=0.03)
    assert (y == 0).float().mean() == pytest.approx(p, abs=0.004)
    assert len(y.unique()) == 2  # 0, and all that stay the same


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_what_is_no_probability_is_refused(p: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        layers.Dropout(p)(torch.ones(1))
