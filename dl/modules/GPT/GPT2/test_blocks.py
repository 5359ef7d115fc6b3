"""GPT-2's block against torch's, by its laws, and under the names of earlier versions."""

from functools import partial

import pytest
import torch
from torch import nn

from dl.modules.GPT.GPT2.model import Block, build
from dl.mytorch import testing
from dl.mytorch.layers import KeyValueCache

PADDING = torch.arange(6) >= torch.tensor([[6], [4], [1]])


def block(activation: type | partial = nn.GELU, bias: bool = True, norm_eps: float = 1e-5) -> Block:
    """Its norms have various scales and shifts, so that the output shows which norm is where."""
    made = Block(8, 2, 12, 0.0, 0.3, activation, norm_eps, bias)
    for norm in (made.norm1, made.norm2):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        if bias:
            nn.init.normal_(norm.bias)
    return made


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("bias", [True, False])
def test_block_is_torch_s_in_outputs_gradients_and_steps(bias: bool, mode: str) -> None:
    ours = block(partial(nn.GELU, approximate="tanh"), bias, norm_eps=0.1)
    sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "batch_first": True, "norm_first": True, "bias": bias}
    reference = nn.TransformerEncoderLayer(**sizes, dropout=0.3, activation=nn.GELU("tanh"), layer_norm_eps=0.1)
    reference.dropout.p = 0.0  # inside the feed-forward, where GPT-2 has none
    twin = testing.TorchBlock(ours, reference, ["src_key_padding_mask"], src_mask=torch.ones(6, 6, dtype=torch.bool).triu(1))
    testing.assert_same_as(ours, twin, torch.randn(3, 6, 8), PADDING, train=mode == "train")


def test_the_block_is_causal() -> None:
    x, changed = torch.randn(2, 2, 6, 8, dtype=torch.float64)
    testing.assert_causal(block().double().eval(), x, changed, tolerance=1e-12)


@torch.no_grad()
def test_cached_steps_give_what_one_call_gives() -> None:
    ours, x, cache = block().double().eval(), torch.randn(3, 6, 8, dtype=torch.float64), KeyValueCache(6)
    steps = torch.cat([ours(part, cache=cache) for part in x.split([2, 1, 1, 2], dim=1)], dim=1)
    torch.testing.assert_close(steps, ours(x), rtol=0, atol=1e-12)


def test_dropout_of_a_layer_spares_the_shortcut() -> None:
    ours, x = block().train(), torch.randn(2, 3, 8)
    ours.dropout.p = 1.0
    torch.testing.assert_close(ours(x), x)


def test_weights_and_moments_of_version_0_1_are_found_by_their_names() -> None:
    layers = {f"attention.layer.{name}": f"attention.{name}" for name in ("query", "key", "value", "output")}
    layers |= {"attention.norm": "norm1"} | {f"feed_forward.layer.{name}": f"feed_forward.{name}" for name in ("fc1", "fc2")}
    layers = {f"blocks.0.{old}": f"blocks.0.{new}" for old, new in (layers | {"feed_forward.norm": "norm2"}).items()}
    earlier = {f"{name}.weight": f"{name}.weight" for name in ("token_embedding", "position_embedding")}
    earlier |= {
        f"{old}.{kind}": f"{new}.{kind}" for old, new in (layers | {"norm": "norm"}).items() for kind in ("weight", "bias")
    }
    testing.assert_earlier_names_load(build("tiny", depth=1), earlier)
