"""Qwen3 by its laws, against attention written out, and against transformers (in the parity tier)."""

import math
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.Qwen3 import train
from dl.modules.GPT.Qwen3.convert import from_transformers
from dl.modules.GPT.Qwen3.model import Attention, MixtureOfExperts, Qwen3, build
from dl.modules.GPT.testing import (
    BATCH,
    LONG,
    TOKENS,
    AsOurs,
    Unpadded,
    assert_cuts_change_no_logits,
    assert_no_token_sees_later_ones,
    assert_padding_on_the_left_moves_nothing,
    randomized,
    token_file,
)
from dl.mytorch import testing
from dl.mytorch.layers import RotaryPositions
from dl.mytorch.layers.rotary_scaling import RotaryScaling
from dl.mytorch.text.tasks import LanguageModeling

pytestmark = pytest.mark.usefixtures("exact")

OPTIONS = [
    {},
    {"tied": True, "num_kv_heads": 2},
    {"num_experts": 3},
    {"window": 5, "depth": 3},
    {"window": 5, "full_every": 2, "sinks": True},
    {"scaling": RotaryScaling("yarn", 4.0, 16)},
]


def tiny(**overrides: Any) -> Qwen3:
    torch.manual_seed(0)
    return randomized(build("tiny", **{"max_length": 64, **overrides}))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_numbers_of_parameters() -> None:
    """The names of tables 1 and 2 round them: 0.6B, 1.7B, 4B, 8B, 14B, 32B, 30B and 235B."""
    attention = 2 * 1024 * 16 * 128 + 2 * 1024 * 8 * 128 + 2 * 128
    assert catalogue.parameters("GPT/Qwen3") == {
        "qwen3_0_6b": 151936 * 1024 + 28 * (attention + 3 * 1024 * 3072 + 2 * 1024) + 1024,
        "qwen3_1_7b": 1_720_574_976,
        "qwen3_4b": 4_022_468_096,
        "qwen3_8b": 8_190_735_360,
        "qwen3_14b": 14_768_307_200,
        "qwen3_32b": 32_762_123_264,
        "qwen3_30b_a3b": 30_532_122_624,
        "qwen3_235b_a22b": 235_093_634_560,
        "char": 65 * 128 + 4 * (2 * 128 * 128 + 2 * 128 * 64 + 2 * 32 + 3 * 128 * 352 + 2 * 128) + 128,
        "char_experts": 1_289_728,
    }


def test_initial_stds() -> None:
    for name, parameter in build("tiny", dim=128, depth=8, vocab_size=500, hidden_dim=300, head_dim=64).named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            branch = name.endswith(("attention.output.weight", "down.weight"))  # 16 of them
            assert parameter.std().item() == pytest.approx(0.005 if branch else 0.02, rel=0.05), name


def test_impossible_sizes_and_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens are more than the 64"):
        tiny()(torch.zeros(1, 65, dtype=torch.int64))
    with pytest.raises(ValueError, match="3 heads of keys have to divide 2 of queries"):
        build("tiny", num_kv_heads=3)
    with pytest.raises(ValueError, match="window 0 be 1 or more"):
        build("tiny", window=0)
    with pytest.raises(ValueError, match="a token passes through 1 to 2 experts; got experts_per_token 3"):
        build("tiny", num_experts=2, experts_per_token=3)


# ---- laws ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_cache_changes_no_logits_however_a_text_is_cut(options: dict[str, Any]) -> None:
    assert_cuts_change_no_logits(tiny(**options).eval())


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_padding_on_the_left_moves_nothing(options: dict[str, Any]) -> None:
    assert_padding_on_the_left_moves_nothing(tiny(**options).eval())


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_token_sees_later_ones(options: dict[str, Any]) -> None:
    assert_no_token_sees_later_ones(tiny(**options).eval())


@torch.no_grad()
def test_a_window_of_5_shows_5_tokens_a_block() -> None:
    layer = Attention(8, 2, 1, 6, RotaryPositions(16, 6), window=5, sinks=False, norm_eps=1e-6, dropout=0.0)
    seen: list[Tensor] = []
    layer.weights.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layer(torch.randn(1, 8, 8))
    assert (seen[0][0, 0, 7] > 0).nonzero().flatten().tolist() == [3, 4, 5, 6, 7]
    model = tiny(window=5, depth=3).eval()
    changed = LONG.clone()
    changed[:, 11] = (changed[:, 11] + 1) % 11  # 12 before the last, which 3 blocks of 4 reach
    assert not torch.equal(model(changed)[:, -1], model(LONG)[:, -1])
    changed = LONG.clone()
    changed[:, 10] = (changed[:, 10] + 1) % 11
    assert torch.equal(model(changed)[:, -1], model(LONG)[:, -1])


@torch.no_grad()
def test_every_second_block_may_attend_to_all() -> None:
    windows = [block.attention.window for block in build("tiny", depth=6, window=5, full_every=3).blocks]
    assert windows == [5, 5, None, 5, 5, None]


@pytest.mark.parametrize(("window", "sinks"), [(None, True), (3, False), (3, True)])
def test_attention_is_its_formula(window: int | None, sinks: bool) -> None:
    rotary = RotaryPositions(16, 6)
    layer = randomized(Attention(8, 4, 2, 6, rotary, window, sinks, 1e-6, 0.0))
    x = torch.randn(2, 7, 8)

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    query = rotary(normed((x @ layer.query.weight.T).unflatten(-1, (4, 6)), layer.query_norm.weight).transpose(1, 2))
    key = rotary(normed((x @ layer.key.weight.T).unflatten(-1, (2, 6)), layer.key_norm.weight).transpose(1, 2))
    value = (x @ layer.value.weight.T).unflatten(-1, (2, 6)).transpose(1, 2)
    outputs = torch.zeros(2, 7, 4, 6)
    for t in range(7):
        first = 0 if window is None else max(0, t - window + 1)
        for head in range(4):
            scores = (query[:, head, t, None] * key[:, head // 2, first : t + 1]).sum(-1) / math.sqrt(6)
            powers = scores.exp()
            total = powers.sum(-1, keepdim=True) + (layer.sinks[head].exp() if sinks else 0)
            outputs[:, t, head] = ((powers / total)[..., None] * value[:, head // 2, first : t + 1]).sum(1)
    torch.testing.assert_close(layer(x), outputs.flatten(2) @ layer.output.weight.T, rtol=0, atol=1e-12)


def test_balance_counts_no_padding_and_has_the_worked_number() -> None:
    layer = MixtureOfExperts(3, 4, num_experts=3, experts_per_token=1)
    layer.router.weight.data = torch.eye(3)
    tokens = torch.tensor([[[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 5]]])
    layer(tokens, torch.tensor([[False, False, False, True]]))
    assert layer.balance.item() == pytest.approx(1.453652709)
    layer(tokens)
    assert layer.balance.item() == pytest.approx(1.066336391)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def run_on_a_token_file(folder: Path) -> train.Config:
    """Places of chunks and dropout are random; windows and sinks."""
    data = f"folder:{token_file(folder)}"
    sizes = {"model": "tiny", "context_length": 8, "window": 4, "full_every": 2, "sinks": True}
    return train.Config(data=data, **sizes, steps=3, batch_size=4, lr=1e-2, dropout=0.1)


test_standard = testing.standard_checks(
    build,
    train.main,
    run_on_a_token_file,
    lambda: BATCH,
    splits=lambda config: text_splits(config, config.context_length),
    task=LanguageModeling,
    inputs=lambda: (TOKENS,),
    variants=[{"num_experts": 2}],
    overfit=[testing.Overfit({"dim": 32})],
)


# ---- transformers --------------------------------------------------------------------------------------------------


SIZES = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 4, "intermediate_size": 20, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64, "pad_token_id": None}
SIZES |= {"attn_implementation": "sdpa"}
EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 10,
    "norm_topk_prob": True,
    "mlp_only_layers": [],
}
ROPE = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
CONFIGURATIONS = [
    {},
    {"tie_word_embeddings": True, "rms_norm_eps": 1e-3, "num_key_value_heads": 4},
    {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["sliding_attention"] * 4},
    {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"] * 2},
    {"rope_parameters": {"rope_type": "linear", **ROPE}},
    {"rope_parameters": {"rope_type": "yarn", **ROPE}},
    {"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ROPE}},
    {"rope_parameters": {"rope_type": "dynamic", **ROPE}, "max_position_embeddings": 16},
    EXPERTS,
]


def theirs(transformers: ModuleType, changes: dict[str, Any]) -> nn.Module:
    kind = "Qwen3Moe" if "num_experts" in changes else "Qwen3"
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})
    config._experts_implementation = "eager"
    return randomized(getattr(transformers, f"{kind}ForCausalLM")(config)).double()


def their_names(copy: nn.Module) -> dict[str, Tensor]:
    """Our parameters by the names of transformers, which keeps all experts in one tensor, ours one by one."""
    own = dict(copy.named_parameters())
    names = {"model.embed_tokens.weight": own["token_embedding.weight"], "model.norm.weight": own["norm.weight"]}
    names["lm_head.weight"] = own.get("output.weight", own["token_embedding.weight"])
    for i, block in enumerate(copy.blocks):
        place, our = f"model.layers.{i}", f"blocks.{i}"
        for part in ("query", "key", "value", "output"):
            names[f"{place}.self_attn.{part[0]}_proj.weight"] = own[f"{our}.attention.{part}.weight"]
        for part in ("query", "key"):
            names[f"{place}.self_attn.{part[0]}_norm.weight"] = own[f"{our}.attention.{part}_norm.weight"]
        names[f"{place}.input_layernorm.weight"] = own[f"{our}.norm1.weight"]
        names[f"{place}.post_attention_layernorm.weight"] = own[f"{our}.norm2.weight"]
        if isinstance(block.feed_forward, MixtureOfExperts):
            names[f"{place}.mlp.gate.weight"] = own[f"{our}.feed_forward.router.weight"]
            gates = torch.cat([own[f"{our}.feed_forward.gate"], own[f"{our}.feed_forward.up"]], dim=1)
            names[f"{place}.mlp.experts.gate_up_proj"] = gates
            names[f"{place}.mlp.experts.down_proj"] = own[f"{our}.feed_forward.down"]
        else:
            for part in ("gate", "up", "down"):
                names[f"{place}.mlp.{part}_proj.weight"] = own[f"{our}.feed_forward.{part}.weight"]
    return {f"reference.{name}": tensor for name, tensor in names.items()}


@pytest.mark.parity
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("changes", CONFIGURATIONS, ids=str)
def test_network_is_transformers_in_outputs_gradients_and_steps(
    transformers: ModuleType, changes: dict[str, Any], train: bool
) -> None:
    reference = theirs(transformers, changes).train(train)
    model = from_transformers(reference)
    if changes.get("max_position_embeddings") == 16:  # more tokens than in training are what "dynamic" is for
        model = randomized_like(Qwen3, reference, model)
    dynamic = "dynamic" in str(changes)
    padding = torch.zeros_like(LONG, dtype=torch.bool) if dynamic else torch.arange(24) < torch.tensor([[0], [7]])
    twin = testing.UnderTheirNames(AsOurs(reference), model, their_names)
    testing.assert_same_as(Unpadded(model), Unpadded(twin), LONG, padding, train=train)


def randomized_like(kind: type[Qwen3], reference: nn.Module, model: Qwen3) -> Qwen3:
    """Return the same network with positions for 64 tokens."""
    attention = model.blocks[0].attention
    attention.rotary.__init__(64, attention.head_dim, attention.rotary.base, attention.rotary.scaling)
    model.max_length = 64
    return model


@pytest.mark.parity
@torch.no_grad()
def test_sinks_are_those_of_gpt_oss(transformers: ModuleType) -> None:
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward

    layer = randomized(Attention(8, 4, 2, 6, RotaryPositions(16, 6), None, True, 1e-6, 0.0))
    query, key, value = torch.randn(2, 4, 7, 6), torch.randn(2, 2, 7, 6), torch.randn(2, 2, 7, 6)
    mask = torch.zeros(7, 7).masked_fill(torch.ones(7, 7).triu(1).bool(), torch.finfo(torch.float64).min)
    module = SimpleNamespace(num_key_value_groups=2, sinks=layer.sinks, training=False)
    expected, _ = eager_attention_forward(module, query, key, value, mask.expand(2, 1, 7, 7), scaling=6**-0.5, dropout=0.0)
    torch.testing.assert_close(layer.attend(query, key, value, None), expected.transpose(1, 2), rtol=0, atol=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "another activation"),
        ({**EXPERTS, "norm_topk_prob": False}, "weights sum up to 1"),
        ({**EXPERTS, "mlp_only_layers": [1]}, "in each block"),
        (
            {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
            "at equal distances",
        ),
    ],
    ids=str,
)
def test_other_networks_are_refused(transformers: ModuleType, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers(theirs(transformers, changes))


@pytest.mark.parity
def test_published_sizes_are_those_of_transformers_default_configuration(transformers: ModuleType) -> None:
    with torch.device("meta"):
        published = transformers.Qwen3Config(num_hidden_layers=2, hidden_size=4096, intermediate_size=22016)
        ours = build("qwen3_8b", depth=2, num_kv_heads=32, hidden_dim=22016)
        assert str(from_transformers(transformers.Qwen3ForCausalLM(published))) == str(ours)
