"""DeepSeek-V3 by its laws, and against attention and router written out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.cli import catalogue
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.DeepSeekV3 import train
from dl.modules.GPT.DeepSeekV3.model import Attention, DeepSeekV3, MixtureOfExperts, build
from dl.modules.GPT.DeepSeekV3.testing import randomize
from dl.modules.GPT.testing import (
    BATCH,
    LONG,
    TOKENS,
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

YARN = RotaryScaling("yarn", 40.0, 16, mscale=1.0, mscale_all_dim=1.0)
OPTIONS = [
    {},
    {"query_rank": None, "num_groups": 1, "groups_per_token": 1, "tied": True},
    {"num_experts": 8, "num_groups": 4, "groups_per_token": 2, "num_shared": 2, "depth": 3, "scaling": YARN},
]


def tiny(**overrides: Any) -> DeepSeekV3:
    torch.manual_seed(0)
    return randomize(build("tiny", **{"max_length": 64, **overrides}))


def attention(scaling: RotaryScaling | None = None, query_rank: int | None = 5) -> Attention:
    torch.manual_seed(1)
    return randomized(Attention(8, 2, query_rank, 6, 3, 5, RotaryPositions(16, 4, scaling=scaling), 0.0))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_numbers_of_parameters() -> None:
    """The report has 671 billion."""
    latents = 7168 * 1536 + 1536 + 7168 * (512 + 64) + 512
    large = latents + 1536 * 128 * (128 + 64) + 512 * 128 * (128 + 128) + 128 * 128 * 7168 + 2 * 7168
    small = 128 * 64 + 64 + 128 * 48 + 32 + 64 * 4 * 48 + 32 * 4 * 64 + 4 * 32 * 128 + 2 * 128
    assert catalogue.parameters("GPT/DeepSeekV3") == {
        "deepseek_v3": 2 * 129280 * 7168 + 61 * large + 3 * 3 * 7168 * 18432 + 58 * (256 + 257 * 3 * 2048) * 7168 + 7168,
        "char": 65 * 128 + 4 * small + 3 * 128 * 352 + 3 * (8 + 9 * 3 * 44) * 128 + 128,
    }
    assert catalogue.parameters("GPT/DeepSeekV3")["deepseek_v3"] == 671_026_404_352


def test_initial_stds() -> None:
    sizes = {"dim": 128, "hidden_dim": 300, "expert_dim": 60, "query_rank": 100, "latent_dim": 100, "vocab_size": 500}
    for name, parameter in build("tiny", **sizes).named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all(), name
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name


def test_impossible_sizes_and_more_tokens_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens are more than the 64"):
        tiny()(torch.zeros(1, 65, dtype=torch.int64))
    with pytest.raises(ValueError, match="num_groups 4 has to divide num_experts 6"):
        build("tiny", num_groups=4)
    with pytest.raises(ValueError, match="and be groups_per_token 4 or more"):
        build("tiny", groups_per_token=4)
    with pytest.raises(ValueError, match="a token passes through 1 to 4 experts; got experts_per_token 5"):
        build("tiny", experts_per_token=5)


# ---- attention -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_cache_changes_no_logits_however_a_text_is_cut(options: dict[str, Any]) -> None:
    assert_cuts_change_no_logits(tiny(**options).eval())


@torch.no_grad()
def test_the_cache_keeps_the_latent_and_one_key_of_a_token() -> None:
    model = tiny().eval()
    cache = model.new_cache()
    model(LONG, cache=cache)
    for latents, keys in (each.contents() for each in cache):
        assert latents.shape == (2, 1, 24, 6) and keys.shape == (2, 1, 24, 4)


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_padding_on_the_left_moves_nothing(options: dict[str, Any]) -> None:
    assert_padding_on_the_left_moves_nothing(tiny(**options).eval())


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_token_sees_later_ones(options: dict[str, Any]) -> None:
    assert_no_token_sees_later_ones(tiny(**options).eval())


@pytest.mark.parametrize("query_rank", [5, None])
@pytest.mark.parametrize("scaling", [None, YARN])
def test_attention_is_its_formula(scaling: RotaryScaling | None, query_rank: int | None) -> None:
    layer = attention(scaling, query_rank)
    x, factor = torch.randn(2, 7, 8), 1.0 if scaling is None else 1.873854207

    def normed(x: Tensor, norm: nn.RMSNorm) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight

    queries = x if query_rank is None else normed(x @ layer.query_down.weight.T, layer.query_norm)
    queries = (queries @ layer.query.weight.T).unflatten(-1, (2, 7))
    turned = layer.rotary(queries[..., 3:].transpose(1, 2)).transpose(1, 2)
    latent = normed(x @ layer.latent.weight[:6].T, layer.latent_norm)
    key = layer.rotary((x @ layer.latent.weight[6:].T)[:, None])[:, 0]
    expanded = (latent @ layer.key_value.weight.T).unflatten(-1, (2, 8))
    outputs = torch.zeros(2, 7, 2, 5)
    for t in range(7):
        for head in range(2):
            scores = (queries[:, t, head, None, :3] * expanded[:, : t + 1, head, :3]).sum(-1)
            scores = scores + (turned[:, t, head, None] * key[:, : t + 1]).sum(-1)
            powers = (factor * scores / math.sqrt(7)).exp()
            shares = powers / powers.sum(-1, keepdim=True)
            outputs[:, t, head] = (shares[..., None] * expanded[:, : t + 1, head, 3:]).sum(1)
    torch.testing.assert_close(layer(x), outputs.flatten(2) @ layer.output.weight.T, rtol=0, atol=1e-8)


def test_absorbed_attention_is_the_expanded_one_gradients_too() -> None:
    layer = attention()
    parts = torch.randn(2, 2, 3, 3), torch.randn(2, 2, 3, 4), torch.randn(2, 1, 7, 6), torch.randn(2, 1, 7, 4)
    mask = torch.arange(7) < torch.tensor([[0], [2]])
    layer.requires_grad_(False)
    layer.key_value.weight.requires_grad_()
    outputs = [attend(*parts, mask) for attend in (layer.attend_expanded, layer.attend_absorbed)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        *(torch.autograd.grad(y.square().sum(), layer.key_value.weight)[0] for y in outputs), rtol=0, atol=1e-11
    )


@torch.no_grad()
def test_yarn_sharpens_all_logits_which_the_first_position_cannot_show() -> None:
    """cos and sin are multiplied by 1, the logits by (0.1 ln 40 + 1)^2."""
    assert YARN.sharpness == 1 and YARN.logit_factor == pytest.approx(1.873854207)
    layer, x = attention(YARN), torch.randn(1, 2, 8)
    sharp = layer(x)
    layer.logit_factor = 1.0
    assert torch.equal(layer(x)[:, 0], sharp[:, 0])
    assert not torch.allclose(layer(x)[:, 1], sharp[:, 1])


# ---- experts -------------------------------------------------------------------------------------------------------


def router(width: int, logits: Tensor, **options: Any) -> tuple[MixtureOfExperts, Tensor]:
    """Return a layer and tokens (1, T, C) of which its router makes these logits (T, E)."""
    options = {"experts_per_token": 2, "num_shared": 1, "num_groups": 1, "groups_per_token": 1, "routed_scale": 1.0, **options}
    layer = randomized(MixtureOfExperts(width, 3, num_experts=width, **options))
    layer.router.weight.data = torch.eye(width)
    return layer, logits[None]


def test_experts_are_chosen_by_bias_and_group_and_weighted_without_the_bias() -> None:
    """The best biased affinities are negative: a masked expert would win with 0."""
    layer, x = router(4, torch.tensor([[0.0, 1, 2, 3]]), num_groups=2, routed_scale=2.5)
    layer.bias.copy_(torch.tensor([-1.0, -1, -2, -2]))
    weights, chosen = layer.route(x[0].sigmoid())
    assert chosen.tolist() == [[1, 0]]
    torch.testing.assert_close(weights, torch.tensor([[1.484613712, 1.015386288]]), rtol=0, atol=1e-8)


@torch.no_grad()
def test_a_mixture_is_its_shared_experts_and_the_weighted_sum_of_the_chosen() -> None:
    layer, x = router(4, torch.randn(5, 4), num_shared=2, routed_scale=2.5)
    layer.bias.copy_(torch.tensor([0.0, 0.3, -0.3, 0.0]))
    for token, y in zip(x[0], layer(x)[0]):
        gate, up, down = (part.weight for part in (layer.shared.gate, layer.shared.up, layer.shared.down))
        expected = torch.zeros(4)
        for part in (slice(0, 3), slice(3, 6)):  # two experts, one after the other
            expected += down[:, part] @ (nn.functional.silu(gate[part] @ token) * (up[part] @ token))
        affinities = 1 / (1 + (-token).exp())
        best = sorted(range(4), key=lambda i: -(affinities + layer.bias)[i])[:2]
        for i in best:
            hidden = nn.functional.silu(layer.gate[i] @ token) * (layer.up[i] @ token)
            expected += 2.5 * affinities[i] / sum(affinities[j] for j in best) * (layer.down[i] @ hidden)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)


def test_no_affinity_at_all_is_no_division_by_zero() -> None:
    layer, _ = router(2, torch.zeros(1, 2))
    assert layer.route(torch.zeros(1, 2))[0].isfinite().all()


def test_load_and_balance_count_no_padding() -> None:
    """Affinities, each row over its sum: 3 tokens, of which expert 0 is the best twice, expert 1 once."""
    tokens = torch.tensor([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 5]])
    layer, x = router(3, tokens, experts_per_token=1)
    high = 1 / (1 + math.exp(-2))
    best, rest = high / (high + 1), 0.5 / (high + 1)
    layer(x, torch.tensor([[False, False, False, True]]))
    means = [(2 * best + rest) / 3, (best + 2 * rest) / 3]
    assert layer.balance.item() == pytest.approx(3 * (2 / 3 * means[0] + 1 / 3 * means[1]))
    assert layer.load.tolist() == [2, 1, 0]
    layer(x.flip(1), torch.tensor([[True, False, False, False]]))
    assert layer.balance.item() == pytest.approx(3 * (2 / 3 * means[0] + 1 / 3 * means[1]))
    layer.eval()(x)
    assert layer.load.tolist() == [4, 2, 0]  # evaluation is no load


def test_balance_is_a_mean_over_sequences() -> None:
    layer, x = router(3, torch.randn(4, 3))
    balances = []
    for row in (x, 2 * x, torch.cat([x, 2 * x])):
        layer(row)
        balances.append(layer.balance.item())
    assert balances[2] == pytest.approx((balances[0] + balances[1]) / 2)
    layer(torch.cat([x, x * 0]), torch.tensor([[False] * 4, [True] * 4]))  # a row of padding has no loss
    assert layer.balance.item() == pytest.approx(balances[0] / 2)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def run_on_a_token_file(folder: Path) -> train.Config:
    data = f"folder:{token_file(folder)}"
    return train.Config(data=data, model="tiny", context_length=8, steps=3, batch_size=4, lr=1e-2, dropout=0.1)


test_standard = testing.standard_checks(
    build,
    train.main,
    run_on_a_token_file,
    lambda: BATCH,
    splits=lambda config: text_splits(config, config.context_length),
    task=LanguageModeling,
    inputs=lambda: (TOKENS,),
    prepare=randomize,
    variants=[{}, {"query_rank": None}],
    overfit=[testing.Overfit({"dim": 32})],
)
