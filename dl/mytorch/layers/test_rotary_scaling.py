"""Scaled rotary frequencies: the worked numbers of a head of 8, and transformers' own functions."""

import math

import pytest
import torch

from dl.mytorch.layers.rotary import RotaryPositions
from dl.mytorch.layers.rotary_scaling import RotaryScaling, frequencies
from dl.mytorch.torchvision_compat import import_torchvision

RULES = [
    (RotaryScaling("linear", 4.0), (0.25, 0.025, 0.0025, 0.00025)),
    (RotaryScaling("dynamic", 2.0, 16), (1, 0.0693361274, 0.0048074986, 0.0003333333)),  # of 32 tokens
    (RotaryScaling("yarn", 4.0, 4096), (1, 0.1, 0.00625, 0.00025)),
    (RotaryScaling("yarn", 4.0, 16), (1, 0.025, 0.0025, 0.00025)),
    (RotaryScaling("llama3", 8.0, 64), (1, 0.013042256, 0.00125, 0.000125)),
]


@pytest.mark.parametrize(("scaling", "expected"), RULES)
def test_frequencies_of_a_head_of_8_have_the_worked_numbers(scaling: RotaryScaling, expected: tuple[float, ...]) -> None:
    found = frequencies(8, 1e4, scaling, length=32)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-10)


def test_yarn_sharpens_attention_unless_told_otherwise() -> None:
    assert RotaryScaling("yarn", 4.0, 16).sharpness == pytest.approx(1.138629436)
    assert RotaryScaling("yarn", 4.0, 16, attention_factor=1.0).sharpness == 1
    assert RotaryScaling("linear", 4.0).sharpness == 1
    rotary = RotaryPositions(4, 8, scaling=RotaryScaling("yarn", 4.0, 16))
    torch.testing.assert_close(rotary(torch.ones(1, 1, 1, 8)), torch.full((1, 1, 1, 8), 1.138629436))


def test_deepseek_s_yarn_takes_a_quotient_for_positions_and_a_factor_for_all_logits() -> None:
    both = RotaryScaling("yarn", 40.0, 4096, mscale=1.0, mscale_all_dim=1.0)
    assert both.sharpness == 1 and both.logit_factor == pytest.approx(1.873854207)
    unequal = both._replace(mscale_all_dim=0.5)
    assert unequal.sharpness == pytest.approx((0.1 * math.log(40) + 1) / (0.05 * math.log(40) + 1))
    assert unequal._replace(attention_factor=1.0).sharpness == 1
    assert both._replace(mscale_all_dim=0.0).sharpness == pytest.approx(0.1 * math.log(40) + 1)
    assert both._replace(mscale_all_dim=0.0).logit_factor == 1 == both._replace(factor=1.0).logit_factor


def test_dynamic_positions_are_the_plain_ones_up_to_the_length_of_training() -> None:
    rotary = RotaryPositions(32, 8, scaling=RotaryScaling("dynamic", 2.0, 16))
    x = torch.randn(1, 1, 20, 8)
    torch.testing.assert_close(rotary(x[:, :, :16]), RotaryPositions(32, 8)(x[:, :, :16]))
    assert not torch.allclose(rotary(x)[:, :, :16], rotary(x[:, :, :16]))
    angle = 19 * frequencies(8, 1e4, rotary.scaling, length=20)
    left = torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 0]).expand(1, 1, 1, 8)
    assert rotary(left, start=19)[0, 0, 0, 4].item() == pytest.approx(math.sin(angle[0]), abs=1e-6)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="the rule is one of linear, dynamic, yarn, llama3; got 'ntk'"):
        frequencies(8, 1e4, RotaryScaling("ntk", 2.0))


@pytest.mark.parity
@pytest.mark.parametrize("length", [16, 40])
@pytest.mark.parametrize("scaling", [rule for rule, _ in RULES])
def test_frequencies_are_transformers(scaling: RotaryScaling, length: int) -> None:
    import_torchvision()  # which transformers imports if it is there
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    given = {"rope_type": scaling.rule, "rope_theta": 1e4, "factor": scaling.factor, "low_freq_factor": scaling.low}
    given |= {"high_freq_factor": scaling.high, "original_max_position_embeddings": scaling.original_length or 16}
    config = transformers.LlamaConfig(
        hidden_size=16, num_attention_heads=2, max_position_embeddings=scaling.original_length or 16, rope_parameters=given
    )
    theirs, factor = ROPE_INIT_FUNCTIONS[scaling.rule](config, "cpu", seq_len=length)
    torch.testing.assert_close(frequencies(8, 1e4, scaling, length).float(), theirs, rtol=1e-5, atol=1e-9)
    assert scaling.sharpness == pytest.approx(factor)
