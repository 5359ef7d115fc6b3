import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dl.mytorch.from_scratch import layers
from dl.mytorch.from_scratch.layers.embedding import embedding
from dl.mytorch.testing import assert_same_function


@pytest.mark.parametrize("padding", [None, 0, 2, -1])
@pytest.mark.parametrize("shape", [(), (4,), (3, 5), (0, 5)])
def test_equals_torch_s(padding: int | None, shape: tuple[int, ...]) -> None:
    tokens = torch.randint(6, shape)
    assert_same_function(layers.Embedding(6, 3, padding), nn.Embedding(6, 3, padding), tokens)
    assert_same_function(lambda w: embedding(tokens, w, padding), lambda w: F.embedding(tokens, w, padding), torch.randn(6, 3))


@pytest.mark.parametrize("padding", [None, -2])
def test_a_seed_gives_the_weights_of_torch_s_and_padding_starts_at_0(padding: int | None) -> None:
    weights = []
    for module in (layers, nn):
        torch.manual_seed(2)
        weights.append(module.Embedding(5, 3, padding).weight)
    assert torch.equal(*weights)
    assert padding is None or not weights[0][padding].any()


@pytest.mark.parametrize("number", [-1, 5])
def test_a_number_that_no_row_has_is_refused(number: int) -> None:
    for module in (layers, nn):
        with pytest.raises(IndexError):
            module.Embedding(5, 2)(torch.tensor([number]))


def test_gradients_equal_finite_differences() -> None:
    tokens = torch.tensor([[0, 1], [1, 1]])
    assert torch.autograd.gradcheck(lambda weight: embedding(tokens, weight), torch.randn(3, 2).double().requires_grad_())
