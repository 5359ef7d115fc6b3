"""Weights of transformers 4, by stand-ins for its classes: their configuration and the names of experts are not those of 5."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.modules.GPT.Llama.convert import from_transformers
from dl.modules.GPT.Llama.model import Llama, build
from dl.modules.GPT.testing import TOKENS, randomized

# Ours and the published names.
NAMES = (
    ("blocks.", "layers."),
    (".norm1", ".input_layernorm"),
    (".norm2", ".post_attention_layernorm"),
    *((f".attention.{part}", f".self_attn.{part[0]}_proj") for part in ("query", "key", "value", "output")),
    *((f".feed_forward.{part}", f".mlp.{part}_proj") for part in ("gate", "up", "down")),
    (".gate.weight", ".w1.weight"),
    (".down.weight", ".w2.weight"),
    (".up.weight", ".w3.weight"),
    (".feed_forward.router", ".block_sparse_moe.gate"),
    (".feed_forward.experts", ".block_sparse_moe.experts"),
    ("token_embedding", "embed_tokens"),
)


class LlamaForCausalLM:
    """Our "tiny", as the class of transformers 4 would hold it."""

    def __init__(self, model: Llama, **changes: Any) -> None:
        self.weights = {}
        for name, weight in model.state_dict().items():
            for our, theirs in NAMES:
                name = name.replace(our, theirs)
            self.weights["lm_head.weight" if name == "output.weight" else f"model.{name}"] = weight
        sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
        sizes |= {"intermediate_size": 12, "vocab_size": 11, "max_position_embeddings": 16, "rms_norm_eps": 1e-5}
        kind = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0}
        self.config = SimpleNamespace(**{**sizes, **kind, "rope_theta": 10000.0, "rope_scaling": None, **changes})
        self.lm_head, self.model = model.output, SimpleNamespace(embed_tokens=model.token_embedding)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights


class MixtralForCausalLM(LlamaForCausalLM):
    """Whose configuration knows no other rotary positions."""

    def __init__(self, model: Llama, **changes: Any) -> None:
        experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "router_jitter_noise": 0.0, "sliding_window": None}
        super().__init__(model, **experts, **changes)
        del self.config.rope_scaling


@torch.no_grad()
@pytest.mark.parametrize("reference", [LlamaForCausalLM, MixtralForCausalLM])
def test_weights_of_transformers_4(reference: type[LlamaForCausalLM]) -> None:
    experts = {"num_experts": 3} if reference is MixtralForCausalLM else {}
    for base in (10000.0, 50.0):
        model = randomized(build("tiny", rotary_base=base, **experts)).float().eval()
        assert torch.equal(from_transformers(reference(model, rope_theta=base)).eval()(TOKENS), model(TOKENS))


def test_scaled_positions_of_transformers_4_are_refused() -> None:
    with pytest.raises(ValueError, match="rotary positions of type 'linear'"):
        from_transformers(LlamaForCausalLM(build("tiny"), rope_scaling={"rope_type": "linear", "factor": 2.0}))
