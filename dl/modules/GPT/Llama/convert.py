"""Pretrained weights for our Llama: those of transformers, and the files of llama2.c."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dl.modules.GPT import gguf
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.Llama.model import Llama, MixtureOfExperts
from dl.modules.GPT.lora import merge
from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary
from dl.mytorch.files import regular_file
from dl.mytorch.inverse import inverse
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
    (r"\.mlp\.(gate|up|down)_proj", r".feed_forward.\1"),
    (r"\.block_sparse_moe\.", ".mlp."),  # of transformers 4, whose experts are one by one
    (r"\.w1\.", ".gate."),
    (r"\.w2\.", ".down."),
    (r"\.w3\.", ".up."),
    (r"\.mlp\.gate\.", ".feed_forward.router."),
    (r"\.mlp\.experts", ".feed_forward.experts"),
    (r"^lm_head", "output"),
)


def from_transformers(reference: nn.Module) -> Llama:
    """Our copy of a `transformers.LlamaForCausalLM`, or of a `MixtralForCausalLM`, whose experts are Llama's feed-forwards.

    Raises `ValueError` for what the classes build beyond the paper: biases, another activation, scaled rotary positions
    (Llama 3.1 and later), heads of another width than dim / num_heads, attention to the last positions only, noise in the
    router, a single expert a token (whose weight is 1 there); and for other classes.
    """
    kind, config = type(reference).__name__, reference.config
    if kind not in ("LlamaForCausalLM", "MixtralForCausalLM"):
        raise ValueError(f"a {kind} is no LlamaForCausalLM or MixtralForCausalLM")
    if kind == "LlamaForCausalLM" and (config.attention_bias or config.mlp_bias):
        raise ValueError("linear layers with biases are not this paper's")
    if config.hidden_act != "silu":
        raise ValueError(f"hidden_act {config.hidden_act!r} is not silu")
    rotary = getattr(config, "rope_parameters", None)
    if rotary is None:  # transformers 4
        rotary = {"rope_type": "default", "rope_theta": config.rope_theta, **(getattr(config, "rope_scaling", None) or {})}
    if rotary["rope_type"] != "default":
        raise ValueError(f"rotary positions of type {rotary['rope_type']!r} are not this paper's")
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    if head_dim * config.num_attention_heads != config.hidden_size:
        raise ValueError(f"heads of width {head_dim} do not add up to the width {config.hidden_size}")
    model = Llama(
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        hidden_dim=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
        rotary_base=rotary["rope_theta"],
        norm_eps=config.rms_norm_eps,
        tied=reference.lm_head.weight is reference.model.embed_tokens.weight,
        **(_experts(config) if kind == "MixtralForCausalLM" else {}),
    )
    for block in model.blocks:
        block.attention.dropout.p = config.attention_dropout
    weights = {}
    for name, weight in reference.state_dict().items():
        if name == "lm_head.weight" and model.output is None:
            continue
        name = substituted(name, NAMES)
        if name.endswith("_proj"):  # of all experts in one
            weights |= _of_each_expert(name, weight)
        else:
            weights[name] = weight
    model.load_state_dict(weights)
    return model


def _experts(config: Any) -> dict[str, int]:
    """Return the arguments of `Llama` for the experts of a Mixtral."""
    if config.sliding_window is not None:
        raise ValueError(f"attention to the last {config.sliding_window} positions only is not this paper's")
    if config.router_jitter_noise or config.num_experts_per_tok == 1:
        raise ValueError("routers with noise, or with one expert a token whose weight is 1, are not those of this model")
    return {"num_experts": config.num_local_experts, "experts_per_token": config.num_experts_per_tok}


def _of_each_expert(name: str, weights: Tensor) -> dict[str, Tensor]:
    """Mixtral's `experts.gate_up_proj` (E, 2 hidden_dim, C) or `experts.down_proj` (E, C, hidden_dim), by our names."""
    place, parts = name.rsplit(".", 1)[0], name.rsplit(".", 1)[1].removesuffix("_proj").split("_")
    return {
        f"{place}.{i}.{part}.weight": own
        for i, weight in enumerate(weights)
        for part, own in zip(parts, weight.chunk(len(parts)))
    }


def from_llama2c(path: Path | str) -> Llama:
    """Return the model in a file of https://github.com/karpathy/llama2.c, first version: seven int32, then float32 weights.

    Raises `ValueError` when the file is of a later version, or not as long as its header says.
    """
    content = regular_file(path).read_bytes()
    if len(content) < 28:
        raise UserError(f"{path} has {len(content)} bytes: no model of llama2.c, whose header has 28")
    if content.startswith(b"24ka"):  # "ak42" as an integer
        raise UserError(f"{path} is of a later version of llama2.c; `python export.py --version 0` there writes the first")
    dim, hidden_dim, depth, num_heads, num_kv_heads, vocab_size, max_length = np.frombuffer(content, "<i4", 7).tolist()
    tied = vocab_size > 0  # a negative one says that the output layer has separate weights
    vocab_size = abs(vocab_size)
    if min(dim, hidden_dim, depth, num_heads, num_kv_heads, vocab_size, max_length) < 1:
        raise UserError(f"{path} is no model of llama2.c: its header says sizes below 1")
    # Before the model is made, for which any number in a header would ask for memory.
    head_dim = dim // num_heads
    rotary_tables = max_length * head_dim
    of_block = 2 * dim * (dim + num_kv_heads * head_dim) + 3 * dim * hidden_dim + 2 * dim
    wanted = (1 if tied else 2) * vocab_size * dim + depth * of_block + dim + rotary_tables
    if len(content) != 28 + 4 * wanted:
        raise UserError(f"{path} has {len(content):,} bytes, its header says {28 + 4 * wanted:,}")
    model = Llama(dim, depth, num_heads, num_kv_heads, hidden_dim, vocab_size, max_length, norm_eps=1e-5, tied=tied)
    values = torch.from_numpy(np.frombuffer(content, "<f4", offset=28).copy())
    layers = (
        ("norm1", False),
        *((f"attention.{part}", part in ("query", "key")) for part in ("query", "key", "value", "output")),
        ("norm2", False),
        *((f"feed_forward.{part}", False) for part in ("gate", "down", "up")),
    )
    place = 0

    def fill(parameter: Tensor, turn: bool = False) -> None:
        nonlocal place
        weight = values[place : place + parameter.numel()].view(parameter.shape)
        if turn:  # its rotary pairs are rows (2i, 2i + 1) of each head, ours (i, i + D/2)
            weight = weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)
        parameter.data.copy_(weight)
        place += parameter.numel()

    fill(model.token_embedding.weight)
    for name, turn in layers:  # of all blocks the one, then of all blocks the next
        for block in model.blocks:
            fill(block.get_submodule(name).weight, turn)
    fill(model.norm.weight)
    if model.output is not None:
        place += rotary_tables
        fill(model.output.weight)
    return model


def to_transformers(model: Llama) -> nn.Module:
    """Return a `transformers.LlamaForCausalLM` with the weights of a Llama of ours, the inverse of `from_transformers`.

    With experts it is a `MixtralForCausalLM`. Adapters of LoRA are merged, in `model` too.

    Raises `ValueError` for a single expert a token, which Mixtral weighs by 1.
    """
    merge(model)
    transformers, first = import_transformers(), model.blocks[0]
    attention, feed_forward = first.attention, first.feed_forward
    experts = isinstance(feed_forward, MixtureOfExperts)
    sizes = {
        "vocab_size": model.token_embedding.num_embeddings,
        "hidden_size": model.token_embedding.embedding_dim,
        "intermediate_size": (feed_forward.experts[0] if experts else feed_forward).gate.out_features,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": attention.query.out_features // attention.head_dim,
        "num_key_value_heads": attention.key.out_features // attention.head_dim,
        "max_position_embeddings": model.max_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": attention.rotary.base},
        "rms_norm_eps": first.norm1.eps,
        "attention_dropout": attention.dropout.p,
        "tie_word_embeddings": model.output is None,
        **{"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
    }
    if not experts:
        return inverse(from_transformers, transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)), model)
    sizes |= {"num_local_experts": len(feed_forward.experts), "num_experts_per_tok": feed_forward.experts_per_token}
    return inverse(from_transformers, transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes)), model)


def to_gguf(model: Llama, vocabulary: Vocabulary | BPE, path: Path) -> None:
    """Write a Llama of ours with its tokens to a file of llama.cpp. Raises `ValueError` for a mixture of experts."""
    gguf.write(model, "llama", vocabulary, path)
