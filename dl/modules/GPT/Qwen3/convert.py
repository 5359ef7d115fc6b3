"""Pretrained weights for our Qwen3: those of transformers."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dl.modules.GPT import gguf
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.lora import merge
from dl.modules.GPT.Qwen3.model import MixtureOfExperts, Qwen3
from dl.mytorch.data import Vocabulary
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
    (r"\.self_attn\.q_proj", ".attention.query"),
    (r"\.self_attn\.k_proj", ".attention.key"),
    (r"\.self_attn\.v_proj", ".attention.value"),
    (r"\.self_attn\.o_proj", ".attention.output"),
    (r"\.self_attn\.q_norm", ".attention.query_norm"),
    (r"\.self_attn\.k_norm", ".attention.key_norm"),
    (r"\.mlp\.(gate|up|down)_proj", r".feed_forward.\1"),
    (r"\.mlp\.gate\.", ".feed_forward.router."),
    (r"\.mlp\.experts\.", ".feed_forward."),
    (r"^lm_head", "output"),
)


def from_transformers(reference: nn.Module) -> Qwen3:
    """Return our copy of a `transformers.Qwen3ForCausalLM` or `Qwen3MoeForCausalLM`, with its weights.

    Raises `ValueError` for what the classes build beyond the report: biases, another activation, a mixture of experts in some
    blocks alone or whose weights do not sum up to 1, windows in the last blocks alone; and for other classes.
    """
    kind, config = type(reference).__name__, reference.config
    if kind not in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"):
        raise ValueError(f"a {kind} is no Qwen3ForCausalLM or Qwen3MoeForCausalLM")
    if config.attention_bias or config.hidden_act != "silu":
        raise ValueError("linear layers with biases, or another activation than silu, are not this report's")
    model = Qwen3(
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
        norm_eps=config.rms_norm_eps,
        tied=reference.lm_head.weight is reference.model.embed_tokens.weight,
        dropout=0.0,
        **_rotary(config.rope_parameters, config.max_position_embeddings),
        **_windows(config),
        **(_experts(config) if kind == "Qwen3MoeForCausalLM" else {"hidden_dim": config.intermediate_size}),
    )
    for block in model.blocks:
        block.attention.dropout.p = config.attention_dropout
    weights: dict[str, Tensor] = {}
    for name, weight in reference.state_dict().items():
        if name == "lm_head.weight" and model.output is None:
            continue
        name = substituted(name, NAMES)
        if name.endswith("gate_up_proj"):  # (E, 2 hidden_dim, C)
            place = name.removesuffix("gate_up_proj")
            weights[f"{place}gate"], weights[f"{place}up"] = weight.chunk(2, dim=1)
        else:
            weights[name.removesuffix("_proj")] = weight
    model.load_state_dict(weights)
    return model


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
    )
    return {"rotary_base": base, "scaling": scaling}


def _windows(config: Any) -> dict[str, Any]:
    """Return the arguments of `Qwen3` for blocks whose attention has a window."""
    full = [kind == "full_attention" for kind in getattr(config, "layer_types", None) or []]
    if config.sliding_window is None or all(full):
        return {}
    every = full.index(True) + 1 if any(full) else 0
    if full != [bool(every) and (i + 1) % every == 0 for i in range(len(full))]:
        raise ValueError("blocks that attend to all have to come at equal distances")
    return {"window": config.sliding_window, "full_every": every}


def _experts(config: Any) -> dict[str, int]:
    """Return the arguments of `Qwen3` for the experts of a Qwen3-MoE."""
    if config.mlp_only_layers or config.decoder_sparse_step != 1 or not config.norm_topk_prob:
        raise ValueError("a mixture of experts is in each block here, and its weights sum up to 1")
    sizes = {"hidden_dim": config.moe_intermediate_size, "num_experts": config.num_experts}
    return sizes | {"experts_per_token": config.num_experts_per_tok}


def to_transformers(model: Qwen3) -> nn.Module:
    """Return a `transformers.Qwen3ForCausalLM` or `Qwen3MoeForCausalLM` with the weights of a Qwen3 of ours.

    The inverse of `from_transformers`. Adapters of LoRA are merged, in `model` too. Raises `ValueError` for sinks and scaled
    rotary positions: sinks are not in the classes, and what scales positions is left to their configuration.
    """
    merge(model)
    first = model.blocks[0]
    attention, feed_forward = first.attention, first.feed_forward
    if attention.sinks is not None or attention.rotary.scaling is not None:
        raise ValueError("attention with sinks, or with scaled rotary positions, is not exported")
    windows = [block.attention.window for block in model.blocks]
    sizes = {
        "vocab_size": model.token_embedding.num_embeddings,
        "hidden_size": model.token_embedding.embedding_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": attention.query.out_features // attention.head_dim,
        "num_key_value_heads": attention.key.out_features // attention.head_dim,
        "head_dim": attention.head_dim,
        "max_position_embeddings": model.max_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rotary.base},
        "rms_norm_eps": first.norm1.eps,
        "attention_dropout": attention.dropout.p,
        "tie_word_embeddings": model.output is None,
        **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
    }
    if any(windows):
        sizes |= {"use_sliding_window": True, "sliding_window": next(window for window in windows if window)}
        sizes["layer_types"] = ["sliding_attention" if window else "full_attention" for window in windows]
    transformers = import_transformers()
    if not isinstance(feed_forward, MixtureOfExperts):
        config = transformers.Qwen3Config(**sizes, intermediate_size=feed_forward.gate.out_features)
        return inverse(from_transformers, transformers.Qwen3ForCausalLM(config), model)
    if any(windows):
        raise ValueError("a mixture of experts with windows in some blocks is not exported")
    experts = {"num_experts": len(feed_forward.gate), "num_experts_per_tok": feed_forward.experts_per_token}
    config = transformers.Qwen3MoeConfig(
        **sizes, **experts, moe_intermediate_size=feed_forward.gate.shape[1], norm_topk_prob=True, mlp_only_layers=[]
    )
    return inverse(from_transformers, transformers.Qwen3MoeForCausalLM(config), model)


def to_gguf(model: Qwen3, vocabulary: Vocabulary | BPE, path: Path) -> None:
    """Write a Qwen3 of ours with its tokens to a file of llama.cpp. Raises `ValueError` for a mixture of experts,
    windows, sinks and scaled rotary positions."""
    for block in model.blocks:
        if block.attention.window or block.attention.sinks is not None or block.attention.rotary.scaling:
            raise ValueError("attention with windows, sinks or scaled rotary positions is not exported")
    gguf.write(model, "qwen3", vocabulary, path)
