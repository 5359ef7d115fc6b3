"""Pretrained weights for our DeepSeek-V3: those of transformers."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.GPT.DeepSeekV3.model import DeepSeekV3, MixtureOfExperts
from dl.modules.GPT.lora import merge
from dl.mytorch.inverse import inverse
from dl.mytorch.layers.rotary_scaling import RotaryScaling
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_transformers

# The names of transformers as regular expressions, and ours.
NAMES = (
    (r"^model\.", ""),
    (r"^embed_tokens", "token_embedding"),
    (r"^layers\.(\d+)", r"blocks.\1"),
    (r"\.input_layernorm", ".norm1"),
    (r"\.post_attention_layernorm", ".norm2"),
    (r"\.self_attn\.(q_proj|q_b_proj)", ".attention.query"),
    (r"\.self_attn\.q_a_proj", ".attention.query_down"),
    (r"\.self_attn\.q_a_layernorm", ".attention.query_norm"),
    (r"\.self_attn\.kv_a_proj_with_mqa", ".attention.latent"),
    (r"\.self_attn\.kv_a_layernorm", ".attention.latent_norm"),
    (r"\.self_attn\.kv_b_proj", ".attention.key_value"),
    (r"\.self_attn\.o_proj", ".attention.output"),
    (r"\.mlp\.(gate|up|down)_proj", r".feed_forward.\1"),
    (r"\.mlp\.shared_experts\.(gate|up|down)_proj", r".feed_forward.shared.\1"),
    (r"\.mlp\.gate\.e_score_correction_bias", ".feed_forward.bias"),
    (r"\.mlp\.gate\.", ".feed_forward.router."),
    (r"\.mlp\.experts\.", ".feed_forward."),
    (r"^lm_head", "output"),
)


def from_transformers(reference: nn.Module) -> DeepSeekV3:
    """Return our copy of a `transformers.DeepseekV3ForCausalLM`, with its weights.

    Raises `ValueError` for what the class builds beyond the report: biases of linear layers, another activation, fewer heads of
    keys than of queries, weights of experts that are not made to sum up to one number; and for other classes.
    """
    kind, config = type(reference).__name__, reference.config
    if kind != "DeepseekV3ForCausalLM":
        raise ValueError(f"a {kind} is no DeepseekV3ForCausalLM")
    if config.attention_bias or config.hidden_act != "silu":
        raise ValueError("linear layers with biases, or another activation than silu, are not this report's")
    if config.num_key_value_heads != config.num_attention_heads or not config.norm_topk_prob:
        raise ValueError("each head has its keys here, and the weights of a token's experts sum up to one number")
    model = DeepSeekV3(
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.intermediate_size,
        expert_dim=config.moe_intermediate_size,
        query_rank=config.q_lora_rank,
        latent_dim=config.kv_lora_rank,
        plain_dim=config.qk_nope_head_dim,
        rotary_dim=config.qk_rope_head_dim,
        value_dim=config.v_head_dim,
        num_experts=config.n_routed_experts,
        experts_per_token=config.num_experts_per_tok,
        num_groups=config.n_group,
        groups_per_token=config.topk_group,
        num_shared=config.n_shared_experts,
        num_dense=config.first_k_dense_replace,
        routed_scale=config.routed_scaling_factor,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
        norm_eps=config.rms_norm_eps,
        tied=reference.lm_head.weight is reference.model.embed_tokens.weight,
        dropout=0.0,
        **_rotary(config.rope_parameters, config.max_position_embeddings),
    )
    for block in model.blocks:
        block.attention.dropout.p = config.attention_dropout
    model.load_state_dict(_weights(reference, tied=model.output is None))
    return model


def _weights(reference: Any, tied: bool) -> dict[str, Tensor]:
    """Return the weights by our names: gates apart from the rest, rotary pairs where `halves` puts them."""
    config, weights = reference.config, {}
    for name, weight in reference.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        name = substituted(name, NAMES)
        if name.endswith("gate_up_proj"):  # (E, 2 expert_dim, C)
            place = name.removesuffix("gate_up_proj")
            weights[f"{place}gate"], weights[f"{place}up"] = weight.chunk(2, dim=1)
        elif config.rope_interleave and name.endswith("attention.query.weight"):
            weights[name] = halves(weight, config.qk_rope_head_dim, config.num_attention_heads)
        elif config.rope_interleave and name.endswith("attention.latent.weight"):
            weights[name] = halves(weight, config.qk_rope_head_dim)
        else:
            weights[name.removesuffix("_proj")] = weight
    return weights


def halves(weight: Tensor, rotary_dim: int, heads: int = 1) -> Tensor:
    """Put rotary pairs (2 i, 2 i + 1), which are the last rows of each head, at (i, i + R/2): (rows, C) -> (rows, C)."""
    rows = torch.arange(len(weight), device=weight.device).view(heads, -1)
    plain, pairs = rows[:, :-rotary_dim], rows[:, -rotary_dim:]
    return weight[torch.cat([plain, pairs[:, ::2], pairs[:, 1::2]], dim=1).flatten()]


def _rotary(given: dict[str, Any], length: int) -> dict[str, Any]:
    rule, base = given["rope_type"], given["rope_theta"]
    if rule == "default":
        return {"rotary_base": base}
    scaling = RotaryScaling(
        rule,
        given["factor"],
        given.get("original_max_position_embeddings") or length,
        low=given.get("low_freq_factor") or 1.0,
        high=given.get("high_freq_factor") or 4.0,
        fast=given.get("beta_fast") or 32.0,
        slow=given.get("beta_slow") or 1.0,
        attention_factor=given.get("attention_factor"),
        mscale=given.get("mscale") or 0.0,
        mscale_all_dim=given.get("mscale_all_dim") or 0.0,
    )
    return {"rotary_base": base, "scaling": scaling}


def to_transformers(model: DeepSeekV3) -> nn.Module:
    """Return a `transformers.DeepseekV3ForCausalLM` with the weights of a DeepSeek-V3 of ours.

    The inverse of `from_transformers`. Adapters of LoRA are merged, in `model` too. Raises `ValueError` for scaled rotary
    positions, which are left to the configuration, and where no block has experts.
    """
    attention, experts = merge(model).blocks[0].attention, model.blocks[-1].feed_forward
    if attention.rotary.scaling is not None or not isinstance(experts, MixtureOfExperts):
        raise ValueError("scaled rotary positions, or blocks that are all without experts, are not exported")
    dense = [block.feed_forward for block in model.blocks if not isinstance(block.feed_forward, MixtureOfExperts)]
    transformers = import_transformers()
    config = transformers.DeepseekV3Config(
        vocab_size=model.token_embedding.num_embeddings,
        hidden_size=model.token_embedding.embedding_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=attention.num_heads,
        num_key_value_heads=attention.num_heads,
        intermediate_size=dense[0].gate.out_features if dense else experts.gate.shape[1],
        moe_intermediate_size=experts.gate.shape[1],
        q_lora_rank=attention.query_down.out_features if attention.query_down is not None else None,
        kv_lora_rank=attention.latent_dim,
        qk_nope_head_dim=attention.plain_dim,
        qk_rope_head_dim=attention.rotary_dim,
        v_head_dim=attention.value_dim,
        n_routed_experts=len(experts.gate),
        num_experts_per_tok=experts.experts_per_token,
        n_group=experts.num_groups,
        topk_group=experts.groups_per_token,
        n_shared_experts=experts.shared.gate.out_features // experts.gate.shape[1],
        first_k_dense_replace=len(dense),
        routed_scaling_factor=experts.routed_scale,
        max_position_embeddings=model.max_length,
        rms_norm_eps=model.norm.eps,
        rope_parameters={"rope_type": "default", "rope_theta": attention.rotary.base},
        attention_dropout=attention.dropout.p,
        tie_word_embeddings=model.output is None,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return inverse(from_transformers, transformers.DeepseekV3ForCausalLM(config), model)
