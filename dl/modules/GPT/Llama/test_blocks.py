"""Llama's attention by its formula, and weights under the names of earlier versions."""

import pytest
import torch

from dl.modules.GPT.Llama.model import Attention, build
from dl.mytorch import testing
from dl.mytorch.layers import KeyValueCache, RotaryPositions


@torch.no_grad()
@pytest.mark.parametrize("num_kv_heads", [2, 1])
def test_attention_turns_queries_and_keys_the_cached_ones_once(num_kv_heads: int) -> None:
    rotary = RotaryPositions(12, 6).double()
    layer = Attention(12, 2, num_kv_heads, 0.0, rotary).double()
    x, cache = torch.randn(2, 7, 12, dtype=torch.float64), KeyValueCache(7)
    parts = [layer(x[:, a:b], cache=cache) for a, b in ((0, 3), (3, 4), (4, 7))]
    assert (torch.cat(parts, dim=1) - layer(x)).abs().max() <= 1e-12
    query, key, value = (part(x).unflatten(-1, (-1, 6)).transpose(1, 2) for part in (layer.query, layer.key, layer.value))
    scores = rotary(query) @ rotary(key).mT / 6**0.5  # one head of keys and values serves both of queries
    weights = scores.masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf).softmax(-1)
    expected = layer.output((weights @ value).transpose(1, 2).flatten(2))
    assert (layer(x) - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("num_experts", [0, 2])
def test_weights_and_moments_of_version_0_1_are_found_by_their_names(num_experts: int) -> None:
    layers = {f"attention.layer.{name}": f"attention.{name}" for name in ("query", "key", "value", "output")}
    feed_forward = ["gate", "up", "down"]
    if num_experts:
        feed_forward = ["router", *(f"experts.{i}.{name}" for i in range(2) for name in feed_forward)]
    layers |= {"attention.norm": "norm1"} | {f"feed_forward.layer.{name}": f"feed_forward.{name}" for name in feed_forward}
    layers = {f"blocks.0.{old}": f"blocks.0.{new}" for old, new in (layers | {"feed_forward.norm": "norm2"}).items()}
    layers = {"token_embedding": "token_embedding"} | layers | {"norm": "norm", "output": "output"}
    earlier = {f"{old}.weight": f"{new}.weight" for old, new in layers.items()}
    testing.assert_earlier_names_load(build("tiny", depth=1, num_experts=num_experts), earlier)
