"""Mamba by its laws, against its recurrence written out, and against transformers (in the parity tier)."""

import dataclasses
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.cli import catalogue
from dl.modules.GPT.data import text_splits
from dl.modules.GPT.testing import (
    BATCH,
    LONG,
    TOKENS,
    AsOurs,
    Unpadded,
    assert_no_token_sees_later_ones,
    randomized,
    token_file,
)
from dl.modules.StateSpace.Mamba import train
from dl.modules.StateSpace.Mamba.convert import from_transformers
from dl.modules.StateSpace.Mamba.generate import main as write_texts
from dl.modules.StateSpace.Mamba.model import Mamba, build, recurrence, selective_scan
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.optim import decay_groups
from dl.mytorch.text.generation import generate, left_pad, stream
from dl.mytorch.text.speculative import speculate
from dl.mytorch.text.tasks import LanguageModeling

OPTIONS = [{}, {"chunk": 5}, {"conv_width": 1, "tied": False}, {"biases": True, "conv_width": 7}]
CUTS = ([0, 9, 10, 11, 16, 24], [0, 1, 3, 24], list(range(25)))


def tiny(**overrides: Any) -> Mamba:
    torch.manual_seed(0)
    return randomized(build("tiny", **overrides)).double()


def parts_of_a_scan(length: int, largest_step: float = 1.0) -> list[Tensor]:
    """A state, A, steps, inputs, B and C for 2 rows, 3 channels of 4 numbers, in float64."""
    torch.manual_seed(1)
    A, step = -torch.rand(4, 3) * 4, torch.rand(2, length, 3) * largest_step
    parts = [torch.randn(2, 4, 3), A, step, *(torch.randn(2, length, n) for n in (3, 4, 4))]
    return [part.double().requires_grad_() for part in parts]


# ---- sizes and first weights ---------------------------------------------------------------------------------------


def test_numbers_of_parameters() -> None:
    """Those of the authors' networks: 129, 372, 793, 1,372 and 2,768 million."""

    def block(dim: int) -> int:
        rank = math.ceil(dim / 16)
        ssm = 2 * dim * (rank + 32) + rank * 2 * dim + 2 * dim * (1 + 16 + 1)
        return dim + dim * 4 * dim + 2 * dim * (4 + 1) + ssm + 2 * dim * dim

    assert catalogue.parameters("StateSpace/Mamba") == {
        "mamba_130m": 129_135_360,
        "mamba_370m": 371_516_416,
        "mamba_790m": 793_204_224,
        "mamba_1_4b": 1_372_178_432,
        "mamba_2_8b": 50280 * 2560 + 64 * block(2560) + 2560,
        "char": 65 * 128 + 7 * block(128) + 128,
    }


def test_first_weights_are_those_of_section_3_6_and_of_the_authors_code() -> None:
    model = build("tiny", dim=64, depth=4, vocab_size=500, step_rank=0, state_dim=16, biases=True)
    assert model.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    for block in model.blocks:
        ssm = block.ssm
        torch.testing.assert_close(-ssm.A_log.exp(), -torch.arange(1.0, 17).expand(128, 16))  # S4D-Real
        steps = F.softplus(ssm.step.bias)
        assert 0.00099 <= steps.min() < 0.0015 and 0.07 < steps.max() <= 0.101
        assert steps.log().mean().item() == pytest.approx(math.log(0.01), abs=0.4)  # uniform in the logarithm
        assert ssm.sizes[0] == 4 and 0.49 < ssm.step.weight.abs().max() <= 0.5  # rank 64 / 16, its ^-1/2
        assert (ssm.D == 1).all() and (block.norm.weight == 1).all()
        assert not block.input.bias.any() and not block.output.bias.any()
        assert 0.99 / 8 < block.input.weight.abs().max() <= 1 / 8  # nn.Linear's own
        bound = 1 / math.sqrt(128) / math.sqrt(4)  # nn.Linear's own, divided by sqrt(depth)
        assert 0.99 * bound < block.output.weight.abs().max() <= bound


def test_matrices_decay_but_no_decay_rates_nor_biases_nor_norms() -> None:
    model = build("tiny")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decaying, plain = ({names[id(p)].removeprefix("blocks.0.") for p in group["params"]} for group in decay_groups(model, 0.1))
    linear = {"input.weight", "conv.weight", "ssm.select.weight", "ssm.step.weight", "output.weight"}
    assert {name for name in decaying if "blocks" not in name} == {"token_embedding.weight"} | linear
    assert {name for name in plain if "blocks" not in name} == {
        *("norm.weight", "ssm.A_log", "ssm.D", "ssm.step.bias", "conv.bias")
    }


# ---- the scan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [0, 1, 2])
def test_a_selective_scan_has_the_numbers_worked_by_hand(chunk: int) -> None:
    """A -1, B 2, C 3, D 0.5; B is discretised as step B."""
    x, step = torch.tensor([1.0, -1.0, 2.0]).double().view(1, 3, 1), torch.tensor([0.5, 1.0, 0.25]).double().view(1, 3, 1)
    state, A = torch.zeros(1, 1, 1).double(), -torch.ones(1, 1).double()
    y, last = selective_scan(state, A, step, step * x, torch.full_like(x, 2), torch.full_like(x, 3), chunk)
    assert (y + 0.5 * x).flatten().tolist() == pytest.approx([3.5, -5.396361676, 0.186709692], abs=5e-10)
    assert (3 * last + 1).item() == pytest.approx(0.186709692, abs=5e-10)


def test_the_recurrence_is_its_formula() -> None:
    state, A, step, u, B, C = (part.detach() for part in parts_of_a_scan(6))
    y, last = recurrence(state, A, step, u, B, C)
    for row in range(2):
        for channel in range(3):
            h = state[row, :, channel].tolist()
            for t in range(6):
                for n in range(4):
                    decay = math.exp(step[row, t, channel] * A[n, channel])
                    h[n] = decay * h[n] + float(B[row, t, n] * u[row, t, channel])
                assert y[row, t, channel].item() == pytest.approx(sum(c * v for c, v in zip(C[row, t].tolist(), h)), abs=1e-12)
            assert last[row, :, channel].tolist() == pytest.approx(h, abs=1e-12)


@pytest.mark.parametrize("largest_step", [1.0, 300.0])  # decays down to exp(-1200): quotients of them would overflow
@pytest.mark.parametrize("chunk", range(1, 13))
def test_the_parallel_form_is_the_recurrence_for_every_chunk_size(chunk: int, largest_step: float) -> None:
    parts = parts_of_a_scan(11, largest_step)
    expected = recurrence(*parts)
    found = selective_scan(*parts, chunk)
    weights = [torch.randn_like(x) for x in expected]
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    for ours, theirs in zip(torch.autograd.grad(found, parts, weights), torch.autograd.grad(expected, parts, weights)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_block_is_its_formula() -> None:
    """Figure 3 and algorithm 2, token by token, channel by channel."""
    block = tiny(conv_width=3).blocks[0].requires_grad_(False)
    x, ssm = torch.randn(5, 8).double(), block.ssm
    normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * block.norm.weight
    inner, gate = (normed @ block.input.weight.T).split(16, dim=1)
    convolved = torch.zeros(5, 16).double()
    for t in range(5):
        for k in range(3):  # of the token itself the last weight
            if t - 2 + k >= 0:
                convolved[t] += block.conv.weight[:, 0, k] * inner[t - 2 + k]
    convolved = F.silu(convolved + block.conv.bias)
    h, y = torch.zeros(16, 4).double(), torch.zeros(5, 16).double()
    for t in range(5):
        step, B, C = (convolved[t] @ ssm.select.weight.T).split([2, 4, 4])
        step = (1 + (ssm.step.weight @ step + ssm.step.bias).exp()).log()
        for channel in range(16):
            A = -ssm.A_log[channel].exp()
            h[channel] = (step[channel] * A).exp() * h[channel] + step[channel] * B * convolved[t, channel]
            y[t, channel] = C @ h[channel] + ssm.D[channel] * convolved[t, channel]
    expected = x + (y * gate * gate.sigmoid()) @ block.output.weight.T
    torch.testing.assert_close(block(x[None])[0], expected, rtol=0, atol=1e-12)


# ---- laws ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_cache_changes_no_logits_however_a_text_is_cut(options: dict[str, Any]) -> None:
    model = tiny(**options).eval()
    whole = model(LONG)
    for cuts in CUTS:
        cache = model.new_cache()
        parts = [model(LONG[:, a:b], cache=cache) for a, b in zip(cuts, cuts[1:])]
        assert (torch.cat(parts, dim=1) - whole).abs().max() <= 1e-9
        assert [each.length for each in cache] == [24, 24]


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_padding_on_the_left_moves_nothing(options: dict[str, Any]) -> None:
    """Neither through the convolution, whose bias makes something of nothing, nor through the state."""
    model = tiny(**options).eval()
    padded = torch.cat([LONG[:, :7] * 0 + 5, LONG], dim=1)
    mask = (torch.arange(31) < 7).expand(2, 31)
    whole = model(LONG)
    assert (model(padded, mask)[:, 7:] - whole).abs().max() <= 1e-9
    for first in (lambda a: 0, lambda a: a):  # the mask of all tokens so far, or of those that are new
        cache = model.new_cache()
        parts = [model(padded[:, a:b], mask[:, first(a) : b], cache) for a, b in ((0, 3), (3, 12), (12, 13), (13, 31))]
        assert (torch.cat(parts, dim=1)[:, 7:] - whole).abs().max() <= 1e-9


@torch.no_grad()
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_no_token_sees_later_ones(options: dict[str, Any]) -> None:
    assert_no_token_sees_later_ones(tiny(**options).eval())


@torch.no_grad()
def test_a_state_has_one_size_however_long_the_text() -> None:
    """In bytes that are kept, of which a view would keep more than it shows."""
    model, sizes = tiny(), []
    for text in (LONG[:, :1], LONG[:, :5], LONG.repeat(1, 4)):
        cache = model.new_cache()
        model(text, cache=cache)
        sizes.append([(len(each.conv.untyped_storage()), len(each.ssm.untyped_storage())) for each in cache])
    assert sizes[0] == sizes[1] == sizes[2] == [(2 * 3 * 16 * 8, 2 * 4 * 16 * 8)] * 2


@torch.no_grad()
def test_rows_of_a_state_are_selected() -> None:
    model = tiny()
    cache, rows = model.new_cache(), torch.tensor([1, 1, 0])
    model(LONG[:, :9], cache=cache)
    for each in cache:
        each.select(rows)
    assert (model(LONG[rows, 9:], cache=cache) - model(LONG)[rows, 9:]).abs().max() <= 1e-9


@torch.no_grad()
def test_half_precision_keeps_the_state_in_single_precision() -> None:
    model, cache = build("tiny"), build("tiny").new_cache()
    with torch.autocast("cpu", torch.bfloat16):
        model(LONG, cache=cache)
    assert [each.ssm.dtype for each in cache] == [torch.float32] * 2
    model.bfloat16()(LONG, cache=(halves := model.new_cache()))
    assert [each.ssm.dtype for each in halves] == [torch.float32] * 2


# ---- generation ----------------------------------------------------------------------------------------------------


def test_texts_are_generated_without_end_with_and_without_a_cache_alone_and_padded() -> None:
    model = tiny()
    prompts = [LONG[0, :2].tolist(), LONG[1, :7].tolist()]
    tokens, mask = left_pad(prompts)
    both = generate(model, tokens, 12, seed=[1, 2], padding_mask=mask)
    assert torch.equal(both, generate(model, tokens, 12, seed=[1, 2], padding_mask=mask, cached=False))
    for row, (prompt, seed) in enumerate(zip(prompts, (1, 2))):
        alone = generate(model, torch.tensor([prompt]), 12, seed=seed)[0]
        assert torch.equal(both[row, -12:], alone[-12:])
    calls: list[int] = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0].shape[1]))
    assert len(list(stream(model, LONG[:1, :3], 40, seed=0))) == 40
    assert calls == [3] + [1] * 39


def test_a_state_cannot_forget_what_was_drafted_wrong() -> None:
    model = tiny()
    with pytest.raises(UserError, match="a state cannot forget"):
        next(speculate(model, tiny(), LONG[:1, :3], 4))


def test_adapters_of_attention_layers_are_refused() -> None:
    with pytest.raises(UserError, match="a Mamba has none"):
        train.Config(lora_rank=2)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def run_on_a_token_file(folder: Path) -> train.Config:
    """Places of chunks and dropout are random; the scan is cut."""
    data = f"folder:{token_file(folder)}"
    sizes = {"model": "tiny", "context_length": 8, "chunk": 3}
    return train.Config(data=data, **sizes, steps=3, batch_size=4, lr=1e-2, dropout=0.1)


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


@pytest.mark.usefixtures("no_figures", "no_reports")
def test_a_run_continues_texts_beyond_its_context_is_tuned_and_cannot_draft(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(run_on_a_token_file(tmp_path), out=str(tmp_path / "run"), steps=2)
    train.main(config)
    tuned = dataclasses.replace(config, out=str(tmp_path / "tuned"), init_from=config.out, steps=1)
    assert train.main(tuned)[-1]["step"] == 1
    capsys.readouterr()
    words = [config.out, "to be", "--tokens", "30", "--seed", "1"]
    assert write_texts(words) == 0
    assert len(capsys.readouterr().out) > len("to be") + 8 and write_texts([*words, "--draft", config.out]) == 1
    assert capsys.readouterr().err.startswith("error: a model whose cache is a state cannot forget what was drafted wrong")


def test_a_run_s_network_has_no_end_and_the_flags_chunk() -> None:
    config = train.Config(model="tiny", chunk=4)
    model = train.build_model(config, {"tokens": range(11)})
    assert model.max_length > 10**9 and model.blocks[0].ssm.chunk == 4


# ---- transformers --------------------------------------------------------------------------------------------------


SIZES = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 4, "state_size": 4, "conv_kernel": 4, "time_step_rank": 2}
SIZES |= {"use_mambapy": False, "use_associative_scan": False, "attn_implementation": "eager"}
CONFIGURATIONS = [{}, {"tie_word_embeddings": False, "expand": 3}, {"conv_kernel": 2, "time_step_rank": "auto"}]
BIASES = {"use_bias": True}


def theirs(transformers: ModuleType, changes: dict[str, Any]) -> nn.Module:
    return randomized(transformers.MambaForCausalLM(transformers.MambaConfig(**{**SIZES, **changes}))).double()


def their_names(copy: nn.Module) -> dict[str, Tensor]:
    """Our parameters by the names of transformers."""
    own = dict(copy.named_parameters())
    names = {"backbone.embeddings.weight": own["token_embedding.weight"], "backbone.norm_f.weight": own["norm.weight"]}
    names["lm_head.weight"] = own.get("output.weight", own["token_embedding.weight"])
    parts = {"input": "in_proj", "conv": "conv1d", "ssm.select": "x_proj", "ssm.step": "dt_proj", "output": "out_proj"}
    for name, parameter in own.items():
        if name.startswith("blocks."):
            place, rest = name.removeprefix("blocks.").split(".", 1)
            part, _, kind = rest.rpartition(".")
            known = "norm" if part == "norm" else f"mixer.{parts[part]}" if part in parts else "mixer"
            names[f"backbone.layers.{place}.{known}.{kind}"] = parameter
    return {f"reference.{name}": tensor for name, tensor in names.items()}


@pytest.mark.parity
@pytest.mark.parametrize("chunk", [0, 5])
@pytest.mark.parametrize("changes", [*CONFIGURATIONS, BIASES], ids=str)
def test_network_is_transformers_in_outputs_gradients_and_steps(
    transformers: ModuleType, changes: dict[str, Any], chunk: int
) -> None:
    """Rows with padding, too, but with biases: those of transformers bring padding into convolution and state."""
    reference = theirs(transformers, changes)
    model = from_transformers(reference)
    for block in model.blocks:
        block.ssm.chunk = chunk
    pads = torch.tensor([[0], [0 if changes is BIASES else 7]])
    twin = testing.UnderTheirNames(AsOurs(reference), model, their_names)
    testing.assert_same_as(Unpadded(model), Unpadded(twin), LONG, torch.arange(24) < pads)


@pytest.mark.parity
@torch.no_grad()
def test_one_token_at_a_time_is_that_of_transformers(transformers: ModuleType) -> None:
    reference = theirs(transformers, {}).eval()
    model = from_transformers(reference)
    cache, their_cache = model.new_cache(), None
    for t in range(24):
        given = {"cache": their_cache} if t else {}
        answer = reference(input_ids=LONG[:, t : t + 1], use_cache=True, **given)
        their_cache = answer.cache
        torch.testing.assert_close(model(LONG[:, t : t + 1], cache=cache), answer.logits, rtol=0, atol=1e-9)


@pytest.mark.parity
@torch.no_grad()
def test_a_padded_row_of_transformers_is_ours_alone(transformers: ModuleType) -> None:
    reference = theirs(transformers, {}).eval()
    model = from_transformers(reference)
    padded, mask = torch.cat([LONG[:, :7] * 0, LONG], dim=1), (torch.arange(31) >= 7).expand(2, 31)
    answer = reference(input_ids=padded, attention_mask=mask.long()).logits[:, 7:]
    torch.testing.assert_close(model(LONG), answer, rtol=0, atol=1e-9)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("changes", "message"),
    [({"hidden_act": "gelu"}, "another activation"), ({"use_conv_bias": False}, "without a bias")],
    ids=str,
)
def test_other_networks_are_refused(transformers: ModuleType, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_transformers(theirs(transformers, changes))


@pytest.mark.parity
def test_published_sizes_are_those_of_transformers_default_configuration(transformers: ModuleType) -> None:
    with torch.device("meta"):
        published = transformers.MambaConfig(num_hidden_layers=2, attn_implementation="eager")
        assert str(from_transformers(transformers.MambaForCausalLM(published))) == str(build("mamba_130m", depth=2))
