import pytest
import torch
from torch.nn import functional as F

from dl.mytorch.from_scratch.layers.attention import scaled_dot_product_attention
from dl.mytorch.testing import assert_same_function


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"enable_gqa": True}], ids=str)
def test_attention_takes_what_torch_s_takes(options: dict) -> None:
    heads = 2 if "enable_gqa" in options else 4
    inputs = (torch.randn(2, 4, 3, 8), torch.randn(2, heads, 5, 8), torch.randn(2, heads, 5, 8))
    own, theirs = scaled_dot_product_attention, F.scaled_dot_product_attention
    assert_same_function(lambda *x: own(*x, **options), lambda *x: theirs(*x, **options), *inputs)
    if not options:
        seen = torch.rand(2, 1, 3, 5) < 0.6
        assert_same_function(lambda *x: own(*x, seen), lambda *x: theirs(*x, seen), *inputs)
        with pytest.raises(ValueError, match="float32"):
            own(*inputs, torch.zeros(3, 5))
        with pytest.raises(ValueError, match="is_causal"):
            own(*inputs, seen, is_causal=True)
