"""Llama against its formulas written out by hand, and against transformers (in the parity tier)."""

import math
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.Llama import train
from dl.modules.GPT.Llama.convert import from_llama2c, from_transformers
from dl.modules.GPT.Llama.model import Llama, build
from dl.modules.GPT.Llama.testing import SIZES
from dl.modules.GPT.testing import BATCH, PADDING, TOKENS, AsOurs, Unpadded, randomized, token_file
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters
from dl.mytorch.text.tasks import LanguageModeling

pytestmark = pytest.mark.usefixtures("exact")


def by_hand(w: dict[str, Tensor], tokens: Tensor, heads: int, kv_heads: int, adjacent: bool = False) -> Tensor:
    """The paper's sums and products for one row (T,) -> logits (T, V). `adjacent`: rotary pairs are (2i, 2i + 1)."""
    width = len(w["norm.weight"]) // heads
    angle = torch.arange(len(tokens))[:, None] * 10000.0 ** (-2 * torch.arange(width // 2) / width)
    rotation = torch.exp(1j * angle)  # (T, D/2)
    future = torch.ones(len(tokens), len(tokens)).triu(1).bool()

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"]

    def turn(x: Tensor) -> Tensor:
        left, right = (x[:, 0::2], x[:, 1::2]) if adjacent else x.chunk(2, -1)
        turned = torch.complex(left.contiguous(), right.contiguous()) * rotation
        return torch.cat([turned.real, turned.imag], -1)

    x = w["token_embedding.weight"][tokens]
    for i in range(sum(name.endswith("gate.weight") for name in w)):
        name = f"blocks.{i}"
        normed = norm(x, f"{name}.norm1")
        query = (normed @ w[f"{name}.attention.query.weight"].T).chunk(heads, -1)
        key, value = ((normed @ w[f"{name}.attention.{part}.weight"].T).chunk(kv_heads, -1) for part in ("key", "value"))
        outputs = []
        for head in range(heads):
            shared = head // (heads // kv_heads)
            scores = (turn(query[head]) @ turn(key[shared]).T / math.sqrt(width)).masked_fill(future, -math.inf)
            outputs.append(scores.softmax(-1) @ value[shared])
        x = x + torch.cat(outputs, -1) @ w[f"{name}.attention.output.weight"].T
        gate, up, down = (w[f"{name}.feed_forward.{part}.weight"].T for part in ("gate", "up", "down"))
        normed = norm(x, f"{name}.norm2")
        gated = normed @ gate
        x = x + (gated / (1 + torch.exp(-gated)) * (normed @ up)) @ down
    return norm(x, "norm") @ w.get("output.weight", w["token_embedding.weight"]).T


class ByHand(nn.Module):
    """`by_hand` on the weights of a Llama; padding cut off."""

    def __init__(self, model: Llama, **sizes: Any) -> None:
        super().__init__()
        self.weights, self.sizes = model, sizes

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        weights = dict(self.weights.named_parameters())
        rows = [by_hand(weights, row[~left], **self.sizes) for row, left in zip(tokens, padding)]
        return torch.zeros(*tokens.shape, 11).masked_scatter(~padding[..., None], torch.cat(rows))


def tiny(**overrides: Any) -> Llama:
    return randomized(build("tiny", **overrides))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_numbers_of_parameters() -> None:
    """Table 2 has 6.7B, 13.0B, 32.5B and 65.2B; the model cards of the others 70B (68.98) and 8B (8.03)."""
    assert catalogue.parameters("GPT/Llama") == {
        "llama_7b": 2 * 32000 * 4096 + 32 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 4096,
        "llama_13b": 13_015_864_320,
        "llama_33b": 32_528_943_616,
        "llama_65b": 65_285_660_672,
        "llama2_70b": 68_976_648_192,
        "llama3_8b": 8_030_261_248,
        "stories260k": 512 * 64 + 5 * (2 * 64**2 + 2 * 64 * 32 + 3 * 64 * 172 + 2 * 64) + 64,
        "char": 65 * 128 + 4 * (2 * 128**2 + 2 * 128 * 64 + 3 * 128 * 352 + 2 * 128) + 128,
    }
    assert count_parameters(build("tiny")) == 2 * 11 * 8 + 2 * (2 * 8**2 + 2 * 8 * 4 + 3 * 8 * 12 + 2 * 8) + 8


@pytest.mark.parametrize("shape", [(1, 16), (3, 5)])
def test_shape_of_logits(shape: tuple[int, int]) -> None:
    assert tiny()(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, 11)


def test_initial_stds() -> None:
    for name, parameter in build("tiny", dim=128, depth=8, vocab_size=500, hidden_dim=300).named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            branch = name.endswith(("attention.output.weight", "down.weight"))  # 16 of them
            assert parameter.std().item() == pytest.approx(0.005 if branch else 0.02, rel=0.05), name


# ---- outputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overrides", [{}, {"num_kv_heads": None, "tied": True, "dropout": 0.0}, {"dim": 16, "num_heads": 4}])
def test_network_is_its_formulas(overrides: dict[str, Any]) -> None:
    model = tiny(**overrides)
    heads = overrides.get("num_heads", 2)
    twin = ByHand(model, heads=heads, kv_heads=overrides.get("num_kv_heads", 1) or heads)
    testing.assert_same_as(Unpadded(model), twin, TOKENS, PADDING, train=not overrides)


@torch.no_grad()
def test_no_token_sees_later_ones() -> None:
    model = tiny().eval()
    whole = model(TOKENS)
    for t in (1, 4, 8):
        assert (model(TOKENS[:, :t]) - whole[:, :t]).abs().max() <= 1e-9
    assert not torch.allclose(model(TOKENS.roll(1, 1))[:, -1], whole[:, -1])


@torch.no_grad()
def test_the_cache_changes_no_logits() -> None:
    model = tiny().eval()
    for padding in (None, PADDING):
        whole = model(TOKENS, padding)
        cache, parts = model.new_cache(), []
        for start, end in ((0, 4), (4, 5), (5, 8), (8, 9)):
            parts.append(model(TOKENS[:, start:end], None if padding is None else padding[:, :end], cache))
        difference = torch.cat(parts, dim=1) - whole
        assert (difference if padding is None else difference[~padding]).abs().max() <= 1e-9


def test_impossible_sizes_and_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="17 tokens are more than the 16"):
        tiny()(torch.zeros(1, 17, dtype=torch.int64))
    with pytest.raises(ValueError, match="width has to be even; got 3"):
        build("tiny", dim=6)
    with pytest.raises(ValueError, match="into num_kv_heads 3"):
        build("tiny", num_kv_heads=3)


def run_on_a_token_file(folder: Path) -> train.Config:
    """Places of chunks and dropout are random; a mixture of experts."""
    data = f"folder:{token_file(folder)}"
    return train.Config(data=data, model="tiny", context_length=8, num_experts=3, steps=3, batch_size=4, lr=1e-2, dropout=0.1)


test_standard = testing.standard_checks(
    build,
    train.main,
    run_on_a_token_file,
    lambda: BATCH,
    splits=lambda config: text_splits(config, config.context_length),
    task=LanguageModeling,
    inputs=lambda: (TOKENS,),
    overfit=[testing.Overfit({"dim": 32})],
)


# ---- llama2.c ------------------------------------------------------------------------------------------------------


def llama2c(model: Llama, tied: bool) -> bytes:
    """A file of llama2.c with the weights of a tiny model as they are, so that its rotary pairs are the adjacent ones."""
    layers = ["norm1", *(f"attention.{part}" for part in ("query", "key", "value", "output"))]
    layers += ["norm2", *(f"feed_forward.{part}" for part in ("gate", "down", "up"))]
    weights = [model.token_embedding.weight]
    weights += [block.get_submodule(name).weight for name in layers for block in model.blocks]
    weights += [model.norm.weight, torch.full((16, 4), 9.0), *([] if tied else [model.output.weight])]
    values = torch.cat([weight.detach().float().flatten() for weight in weights])
    return struct.pack("<7i", 8, 12, 2, 2, 1, 11 if tied else -11, 16) + values.numpy().tobytes()


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_file_of_llama2c_has_adjacent_rotary_pairs(tmp_path: Path, tied: bool) -> None:
    reference = tiny(tied=tied).float().double()
    (tmp_path / "model.bin").write_bytes(llama2c(reference, tied))
    model = from_llama2c(tmp_path / "model.bin").eval()
    expected = by_hand(dict(reference.named_parameters()), TOKENS[0], heads=2, kv_heads=1, adjacent=True)
    assert (model(TOKENS[:1])[0] - expected).abs().max() <= 1e-9
    whole = llama2c(reference, tied)
    for content, message in (
        (b"", "has 0 bytes"),
        (whole[:-4], "its header says"),
        (whole + bytes(4), "its header says"),
        (struct.pack("<i", 10**9) + whole[4:], "its header says"),  # a dim for which no memory suffices
        (bytes(4) + whole[4:], "sizes below 1"),
        (struct.pack("<2i", 0x616B3432, 1) + whole, "of a later version of llama2.c"),
    ):
        (tmp_path / "model.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            from_llama2c(tmp_path / "model.bin")


# ---- transformers --------------------------------------------------------------------------------------------------


CONFIGURATIONS = [
    {"num_key_value_heads": 2},
    {"num_attention_heads": 2, "rms_norm_eps": 1e-3, "tie_word_embeddings": True},
    {"num_attention_heads": 12, "num_key_value_heads": 1, "num_hidden_layers": 1, "max_position_embeddings": 9},
    {"num_key_value_heads": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "vocab_size": 40},
]


@pytest.mark.parity
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("changes", CONFIGURATIONS)
def test_network_is_transformers_in_outputs_gradients_and_steps(
    transformers: ModuleType, changes: dict[str, Any], train: bool, padded: bool
) -> None:
    """Its attention "sdpa": the other takes a softmax in float32."""
    config = transformers.LlamaConfig(**{**SIZES, **changes}, attn_implementation="sdpa")
    reference = randomized(transformers.LlamaForCausalLM(config))
    model = from_transformers(reference)
    reference.double().train(train)
    padding = PADDING if padded else torch.zeros_like(PADDING)
    testing.assert_same_as(Unpadded(InTheirOrder(model)), Unpadded(AsOurs(reference)), TOKENS, padding, train=train)


class InTheirOrder(nn.Module):
    """Our model for `assert_same_as`, which compares parameters in their order: the reference's has its norms last."""

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.token_embedding = model.token_embedding
        layers = ["attention", "feed_forward", "norm1", "norm2"]
        self.parts = nn.ModuleList(block.get_submodule(name) for block in model.blocks for name in layers)
        self.norm, self.output = model.norm, model.output
        self.model = model

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.model(tokens, padding)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_bias": True}, "biases"),
        ({"hidden_act": "gelu"}, "'gelu' is not silu"),
        ({"head_dim": 8}, "heads of width 8 do not add up to the width 24"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}, "of type 'linear'"),
    ],
)
def test_other_networks_are_refused(transformers: ModuleType, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers(transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **changes})))
    with pytest.raises(ValueError, match="a LlamaModel is no LlamaForCausalLM or MixtralForCausalLM"):
        from_transformers(transformers.LlamaModel(transformers.LlamaConfig(**SIZES)))


@pytest.mark.parity
def test_transformers_default_configuration_is_our_7b(transformers: ModuleType) -> None:
    with torch.device("meta"):
        assert str(from_transformers(transformers.LlamaForCausalLM(transformers.LlamaConfig()))) == str(build("llama_7b"))
