"""DeepSeek-V3 against transformers (in the parity tier)."""

from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.GPT.DeepSeekV3.convert import from_transformers
from dl.modules.GPT.DeepSeekV3.model import MixtureOfExperts, build
from dl.modules.GPT.DeepSeekV3.testing import randomize
from dl.modules.GPT.testing import LONG, AsOurs, Unpadded
from dl.mytorch import testing

pytestmark = pytest.mark.parity

SIZES = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 4, "intermediate_size": 20, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 4, "max_position_embeddings": 64, "pad_token_id": None, "attn_implementation": "sdpa"}
SIZES |= {"q_lora_rank": 8, "kv_lora_rank": 6, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6}
SIZES |= {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 10}
SIZES |= {"first_k_dense_replace": 1}
ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 16}
CONFIGURATIONS = [
    {},
    {"q_lora_rank": None},
    {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 3},
    {"n_shared_experts": 2, "first_k_dense_replace": 0, "routed_scaling_factor": 1.0},
    {"tie_word_embeddings": True, "rms_norm_eps": 1e-3, "rope_interleave": False},
    {"rope_parameters": {**ROPE, "mscale": 1.0, "mscale_all_dim": 1.0}},
    {"rope_parameters": {**ROPE, "mscale": 1.0, "mscale_all_dim": 0.7}, "q_lora_rank": None, "n_group": 1, "topk_group": 1},
    {"rope_parameters": ROPE},
    {"rope_parameters": {**ROPE, "attention_factor": 1.0, "mscale": 0.5}},
]


def theirs(transformers: ModuleType, changes: dict[str, Any]) -> nn.Module:
    config = transformers.DeepseekV3Config(**{**SIZES, **changes})
    config._experts_implementation = "eager"
    return randomize(transformers.DeepseekV3ForCausalLM(config)).double()


def their_names(copy: nn.Module, interleaved: bool) -> dict[str, Tensor]:
    """Our parameters by the names of transformers, with rotary pairs beside each other if `interleaved`."""
    names, own = {}, dict(copy.named_parameters())

    def pairs(weight: Tensor, heads: int) -> Tensor:
        if not interleaved:
            return weight
        plain, left, right = weight.unflatten(0, (heads, -1)).split([len(weight) // heads - 4, 2, 2], dim=1)
        return torch.cat([plain, torch.stack([left, right], dim=2).flatten(1, 2)], dim=1).flatten(0, 1)

    def take(their: str, our: str) -> None:
        names[f"{their}.weight"] = own[f"{our}.weight"]

    take("model.embed_tokens", "token_embedding")
    take("model.norm", "norm")
    take("lm_head", "output" if copy.output is not None else "token_embedding")
    for i, block in enumerate(copy.blocks):
        place, our = f"model.layers.{i}", f"blocks.{i}"
        take(f"{place}.input_layernorm", f"{our}.norm1")
        take(f"{place}.post_attention_layernorm", f"{our}.norm2")
        query = pairs(own[f"{our}.attention.query.weight"], 4)
        names[f"{place}.self_attn.q_{'proj' if block.attention.query_down is None else 'b_proj'}.weight"] = query
        if block.attention.query_down is not None:
            take(f"{place}.self_attn.q_a_proj", f"{our}.attention.query_down")
            take(f"{place}.self_attn.q_a_layernorm", f"{our}.attention.query_norm")
        names[f"{place}.self_attn.kv_a_proj_with_mqa.weight"] = pairs(own[f"{our}.attention.latent.weight"], 1)
        take(f"{place}.self_attn.kv_a_layernorm", f"{our}.attention.latent_norm")
        take(f"{place}.self_attn.kv_b_proj", f"{our}.attention.key_value")
        take(f"{place}.self_attn.o_proj", f"{our}.attention.output")
        mixture = isinstance(block.feed_forward, MixtureOfExperts)
        for part in ("gate", "up", "down"):
            inside = (".shared_experts", ".shared") if mixture else ("", "")
            take(f"{place}.mlp{inside[0]}.{part}_proj", f"{our}.feed_forward{inside[1]}.{part}")
        if mixture:
            take(f"{place}.mlp.gate", f"{our}.feed_forward.router")
            gates = torch.cat([own[f"{our}.feed_forward.gate"], own[f"{our}.feed_forward.up"]], dim=1)
            names[f"{place}.mlp.experts.gate_up_proj"] = gates
            names[f"{place}.mlp.experts.down_proj"] = own[f"{our}.feed_forward.down"]
    return {f"reference.{name}": tensor for name, tensor in names.items()}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
def test_network_is_transformers_in_outputs_gradients_and_steps(
    transformers: ModuleType, changes: dict[str, Any], train: bool
) -> None:
    reference = theirs(transformers, changes).train(train)
    model = from_transformers(reference)
    assert model.blocks[1].feed_forward.bias.any()
    padding = torch.arange(24) < torch.tensor([[0], [7]])
    names = partial(their_names, interleaved=reference.config.rope_interleave)
    twin = testing.UnderTheirNames(AsOurs(reference), model, names)
    testing.assert_same_as(Unpadded(model), Unpadded(twin), LONG, padding, train=train)


@torch.no_grad()
def test_cached_logits_are_transformers(transformers: ModuleType) -> None:
    reference = theirs(transformers, {"rope_parameters": {**ROPE, "mscale": 1.0, "mscale_all_dim": 1.0}}).eval()
    model = from_transformers(reference).eval()
    cache, their_cache = model.new_cache(), transformers.DynamicCache(config=reference.config)
    for start, end in ((0, 9), (9, 10), (10, 24)):
        their = reference(input_ids=LONG[:, start:end], cache=their_cache, use_cache=True).logits
        torch.testing.assert_close(model(LONG[:, start:end], cache=cache), their, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "another activation"),
        ({"num_key_value_heads": 2}, "each head has its keys"),
        ({"norm_topk_prob": False}, "sum up to one number"),
    ],
    ids=str,
)
def test_other_networks_are_refused(transformers: ModuleType, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers(theirs(transformers, changes))


def test_published_sizes_are_those_of_transformers_default_configuration(transformers: ModuleType) -> None:
    with torch.device("meta"):
        published = transformers.DeepseekV3Config(num_hidden_layers=4, max_position_embeddings=163840)
        ours = build("deepseek_v3", depth=4)
        assert str(from_transformers(transformers.DeepseekV3ForCausalLM(published))) == str(ours)
