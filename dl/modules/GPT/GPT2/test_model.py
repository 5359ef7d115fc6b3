"""GPT-2 against its formulas written out by hand, and against transformers (in the parity tier)."""

import copy
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.GPT2 import train
from dl.modules.GPT.GPT2.convert import from_transformers
from dl.modules.GPT.GPT2.model import GPT2, build
from dl.modules.GPT.testing import BATCH, PADDING, TOKENS, Unpadded, randomized, token_file
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters
from dl.mytorch.text.tasks import LanguageModeling
from dl.mytorch.torchvision_compat import import_torchvision


class ByHand(nn.Module):
    """The paper's sums and products on the weights of a GPT-2, row by row, with functions only; padding cut off."""

    def __init__(self, model: GPT2, num_heads: int) -> None:
        super().__init__()
        self.weights, self.num_heads = copy.deepcopy(model), num_heads

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, 11, dtype=torch.float64)
        return logits.masked_scatter(~padding[..., None], torch.cat([self.row(t[~p]) for t, p in zip(tokens, padding)]))

    def row(self, tokens: Tensor) -> Tensor:
        w = dict(self.weights.named_parameters())
        future = torch.ones(len(tokens), len(tokens)).triu(1).bool()

        def linear(x: Tensor, name: str) -> Tensor:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def norm(x: Tensor, name: str) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

        def gelu(x: Tensor) -> Tensor:
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

        x = w["token_embedding.weight"][tokens] + w["position_embedding.weight"][: len(tokens)]
        for i in range(len(self.weights.blocks)):
            name = f"blocks.{i}"
            normed = norm(x, f"{name}.norm1")
            parts = [linear(normed, f"{name}.attention.{part}").chunk(self.num_heads, -1) for part in ("query", "key", "value")]
            heads = []
            for query, key, value in zip(*parts):
                scores = (query @ key.T / math.sqrt(query.shape[-1])).masked_fill(future, -math.inf)
                heads.append(scores.softmax(-1) @ value)
            x = x + linear(torch.cat(heads, -1), f"{name}.attention.output")
            hidden = gelu(linear(norm(x, f"{name}.norm2"), f"{name}.feed_forward.fc1"))
            x = x + linear(hidden, f"{name}.feed_forward.fc2")
        return norm(x, "norm") @ w["token_embedding.weight"].T


def tiny(**overrides: Any) -> GPT2:
    return randomized(build("tiny", **overrides))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_numbers_of_parameters() -> None:
    assert catalogue.parameters("GPT/GPT2") == {
        "gpt2": 124_439_808,  # those of transformers' openai-community/gpt2, -medium, -large and -xl
        "gpt2-medium": 354_823_168,
        "gpt2-large": 774_030_080,
        "gpt2-xl": 1_557_611_200,
        "small": 4000 * 256 + 128 * 256 + 4 * (12 * 256**2 + 13 * 256) + 2 * 256,
        "char": 65 * 128 + 64 * 128 + 4 * (12 * 128**2 + 2 * 128) + 128,  # no biases
        "char_gpu": 65 * 384 + 256 * 384 + 6 * (12 * 384**2 + 2 * 384) + 384,
    }
    assert count_parameters(build("tiny")) == 11 * 8 + 16 * 8 + 2 * (12 * 8**2 + 13 * 8) + 2 * 8  # with biases


@pytest.mark.parametrize("shape", [(1, 16), (3, 5)])
def test_shape_of_logits(shape: tuple[int, int]) -> None:
    assert tiny()(torch.zeros(shape, dtype=torch.int64)).shape == (*shape, 11)


def test_initial_stds_are_those_of_the_paper() -> None:
    model = build("tiny", dim=128, depth=8, vocab_size=500, max_length=200)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name
            continue
        wanted = 0.01 if name.startswith("position") else 0.02
        if name.endswith(("output.weight", "fc2.weight")):
            wanted /= 4  # 16 residual branches
        assert parameter.std().item() == pytest.approx(wanted, rel=0.05), name


# ---- outputs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [True, False])
def test_network_is_its_formulas(train: bool) -> None:
    model = tiny().double()
    testing.assert_same_as(Unpadded(model), ByHand(model, num_heads=2), TOKENS, PADDING, train=train)


@torch.no_grad()
def test_no_token_sees_later_ones() -> None:
    model = tiny().double().eval()
    whole = model(TOKENS)
    for t in (1, 4, 8):
        assert (model(TOKENS[:, :t]) - whole[:, :t]).abs().max() <= 1e-9
    assert not torch.allclose(model(TOKENS.roll(1, 1))[:, -1], whole[:, -1])


@torch.no_grad()
def test_the_cache_changes_no_logits() -> None:
    model = tiny().double().eval()
    for padding in (None, PADDING):
        whole = model(TOKENS, padding)
        cache, parts, start = model.new_cache(), [], 0
        for length in (4, 1, 3, 1):
            end = start + length
            parts.append(model(TOKENS[:, start:end], None if padding is None else padding[:, :end], cache))
            start = end
        difference = torch.cat(parts, dim=1) - whole
        assert (difference if padding is None else difference[~padding]).abs().max() <= 1e-9


def test_more_tokens_than_positions_are_refused() -> None:
    model = tiny()
    with pytest.raises(ValueError, match="17 tokens are more than the 16"):
        model(torch.zeros(1, 17, dtype=torch.int64))
    cache = model.new_cache()
    model(torch.zeros(1, 16, dtype=torch.int64), cache=cache)
    with pytest.raises(ValueError, match="17 tokens are more than the 16"):
        model(torch.zeros(1, 1, dtype=torch.int64), cache=cache)


def test_dropout_acts_on_embeddings_attention_and_layers() -> None:
    model = build("tiny", dropout=0.25, attention_dropout=0.5)
    block = model.blocks[0]
    assert [model.dropout.p, block.dropout.p, block.attention.dropout.p] == [0.25, 0.25, 0.5]
    assert build("tiny", dropout=0.25).blocks[1].attention.dropout.p == 0.25


def run_on_a_token_file(folder: Path) -> train.Config:
    """Places of chunks and dropout are random."""
    data = f"folder:{token_file(folder)}"
    return train.Config(data=data, model="tiny", context_length=8, steps=3, batch_size=4, lr=1e-2, dropout=0.1)


test_standard = testing.standard_checks(
    build,
    train.main,
    run_on_a_token_file,
    lambda: BATCH,
    splits=lambda config: text_splits(config, config.context_length),
    task=LanguageModeling,
    variants=[{"max_length": 8}],
    inputs=lambda: (TOKENS[:, :8],),
    overfit=[testing.Overfit({"dim": 32})],
)


def test_it_trains_from_disk_with_the_same_gradients(tmp_path: Path) -> None:
    testing.assert_streams_exactly(build("tiny", dropout=0.1), BATCH, tmp_path, LanguageModeling())


# ---- transformers --------------------------------------------------------------------------------------------------


SIZES = {"vocab_size": 11, "n_embd": 12, "n_layer": 2, "n_head": 3, "n_positions": 16}
NO_DROPOUT = {"embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0}
CONFIGURATIONS = [
    {},
    {"n_head": 1, "n_inner": 20, "layer_norm_epsilon": 1e-3},
    {"n_layer": 1, "n_head": 12, "n_positions": 9, "activation_function": "relu"},
    {"n_layer": 3, "vocab_size": 40, "activation_function": "gelu"},
]


class AsOurs(nn.Module):
    """A model of transformers, called and answering as ours."""

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        positions = ((~padding).cumsum(1) - 1).clamp(min=0)  # as its `generate` counts them
        return self.reference(input_ids=tokens, attention_mask=(~padding).long(), position_ids=positions).logits


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    import_torchvision()  # which transformers imports if it is there
    return pytest.importorskip("transformers")


def transposed(x: Tensor) -> Tensor:
    return x.mT if x.ndim == 2 else x


def their_names(copy: nn.Module) -> dict[str, Tensor]:
    """Our parameters by the names of transformers, which has one tensor for query, key and value."""
    own = dict(copy.named_parameters())
    names = {"wte.weight": own["token_embedding.weight"], "wpe.weight": own["position_embedding.weight"]}
    names |= {f"ln_f.{kind}": own[f"norm.{kind}"] for kind in ("weight", "bias")}
    for i in range(len(copy.blocks)):
        for kind in ("weight", "bias"):
            block = {name: own[f"blocks.{i}.{name}.{kind}"] for name in BLOCK}
            parts = [transposed(block[f"attention.{part}"]) for part in ("query", "key", "value")]
            names |= {
                f"h.{i}.attn.c_attn.{kind}": torch.cat(parts, dim=-1),
                f"h.{i}.attn.c_proj.{kind}": transposed(block["attention.output"]),
                f"h.{i}.mlp.c_fc.{kind}": transposed(block["feed_forward.fc1"]),
                f"h.{i}.mlp.c_proj.{kind}": transposed(block["feed_forward.fc2"]),
                f"h.{i}.ln_1.{kind}": block["norm1"],
                f"h.{i}.ln_2.{kind}": block["norm2"],
            }
    theirs = {f"reference.transformer.{name}": tensor for name, tensor in names.items()}
    return theirs | {"reference.lm_head.weight": own["token_embedding.weight"]}


BLOCK = [
    *(f"attention.{part}" for part in ("query", "key", "value", "output")),
    *("feed_forward.fc1", "feed_forward.fc2", "norm1", "norm2"),
]


@pytest.mark.parity
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("changes", CONFIGURATIONS)
@pytest.mark.parametrize("padded", [True, False])
def test_network_is_transformers_in_outputs_gradients_and_steps(
    transformers: ModuleType, changes: dict[str, Any], train: bool, attention: str, padded: bool
) -> None:
    dropout = NO_DROPOUT if train else {}
    config = transformers.GPT2Config(**{**SIZES, **dropout, **changes}, attn_implementation=attention)
    reference = randomized(transformers.GPT2LMHeadModel(config)).double().train(train)
    padding = PADDING if padded else torch.zeros_like(PADDING)
    twin = testing.UnderTheirNames(AsOurs(reference), from_transformers(reference), their_names)
    testing.assert_same_as(Unpadded(from_transformers(reference)), Unpadded(twin), TOKENS, padding, train=train)


@pytest.mark.parity
def test_transformers_default_configuration_is_our_gpt2(transformers: ModuleType) -> None:
    with torch.device("meta"):
        assert str(from_transformers(transformers.GPT2LMHeadModel(transformers.GPT2Config()))) == str(build("gpt2"))


@pytest.mark.parity
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"add_cross_attention": True}, "cross attention"),
        ({"tie_word_embeddings": False}, "separate weights"),
        ({"scale_attn_by_inverse_layer_idx": True}, "square root of a head's width alone"),
        ({"embd_pdrop": 0.2}, "dropout 0.2 of embeddings and 0.1 of layers"),
        ({"activation_function": "tanh"}, "activation_function 'tanh' is none of gelu, gelu_new"),
    ],
)
def test_other_networks_are_refused(transformers: ModuleType, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers(transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SIZES, **changes})))
    with pytest.raises(ValueError, match="a GPT2Model is no GPT2LMHeadModel"):
        from_transformers(transformers.GPT2Model(transformers.GPT2Config(**SIZES)))
