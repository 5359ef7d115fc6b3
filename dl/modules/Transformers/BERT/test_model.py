"""BERT against its formulas written out by hand, and through its real recipe."""

import copy
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Transformers.BERT import train
from dl.modules.Transformers.BERT.data import pair_splits
from dl.modules.Transformers.BERT.model import BERT, PRESETS, Block, build
from dl.modules.Transformers.BERT.task import PreTraining
from dl.modules.Transformers.BERT.testing import (
    INPUTS,
    PADDING,
    POSITIONS,
    SEGMENTS,
    TOKENS,
    Joined,
    paragraphs,
    randomized,
    tiny,
)
from dl.mytorch import testing
from dl.mytorch.command_line import parse
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Splits
from dl.mytorch.files import read_json
from dl.mytorch.introspect import count_parameters


class ByHand(nn.Module):
    """The paper's sums and products on the weights of a BERT, with functions only."""

    def __init__(self, model: BERT, num_heads: int) -> None:
        super().__init__()
        self.weights, self.num_heads = copy.deepcopy(model), num_heads

    def forward(self, tokens: Tensor, segments: Tensor, padding: Tensor, positions: Tensor) -> tuple[Tensor, ...]:
        w = dict(self.weights.named_parameters())

        def linear(x: Tensor, name: str) -> Tensor:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def norm(x: Tensor, name: str) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            std = (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
            return centred / std * w[f"{name}.weight"] + w[f"{name}.bias"]

        def gelu(x: Tensor) -> Tensor:
            return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

        embeddings = w["token_embedding.weight"]
        x = embeddings[tokens] + w["segment_embedding.weight"][segments] + w["position_embedding"][: tokens.shape[1]]
        x = norm(x, "norm")
        for i in range(len(self.weights.blocks)):
            name = f"blocks.{i}"
            parts = [linear(x, f"{name}.attention.{part}").chunk(self.num_heads, -1) for part in ("query", "key", "value")]
            heads = []
            for query, key, value in zip(*parts):
                scores = query @ key.mT / math.sqrt(query.shape[-1])
                heads.append(scores.masked_fill(padding[:, None], -math.inf).softmax(-1) @ value)
            x = norm(x + linear(torch.cat(heads, -1), f"{name}.attention.output"), f"{name}.norm1")
            hidden = gelu(linear(x, f"{name}.feed_forward.fc1"))
            x = norm(x + linear(hidden, f"{name}.feed_forward.fc2"), f"{name}.norm2")
        pooled = linear(x[:, 0], "pooler.fc").tanh()
        at = torch.stack([row[places] for row, places in zip(x, positions)])
        mlm = norm(gelu(linear(at, "mlm_head.hidden")), "mlm_head.norm") @ embeddings.T + w["mlm_head.bias"]
        return mlm, linear(pooled, "nsp_head"), x, pooled


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "encoder", "millions"),
    [
        ("base", 109_482_240, 110),
        ("large", 335_141_888, 340),
        ("mini", 11_170_560, 11.3),
        ("small", 4_385_920, 4.4),
        ("minilm_l6", 22_713_216, 22.7),
        ("d2l", 4_316_800, None),
        ("tiny", 8_208, None),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset: str, encoder: int, millions: float | None) -> None:
    sizes = {"vocab_size": 30522, "max_length": 512, "hidden_dim": 4 * PRESETS[preset]["dim"], **PRESETS[preset]}
    dim, hidden, vocabulary = sizes["dim"], sizes["hidden_dim"], sizes["vocab_size"]
    block = 4 * (dim * dim + dim) + (dim * hidden + hidden) + (hidden * dim + dim) + 2 * 2 * dim
    by_hand = (vocabulary + sizes["max_length"] + 2) * dim + 2 * dim + sizes["depth"] * block + dim * dim + dim
    heads = (dim * dim + dim + 2 * dim + vocabulary) + (2 * dim + 2)  # the decoder's matrix is that of the embeddings
    with torch.device("meta"):
        assert count_parameters(build(preset, mlm=False, nsp=False, pooler=True)) == by_hand == encoder
        assert count_parameters(build(preset)) == encoder + heads
    if millions:
        assert abs(encoder / 1e6 / millions - 1) < 0.02


@pytest.mark.parametrize("length", [1, 12])
def test_outputs_have_the_shapes_that_are_asked_for(length: int) -> None:
    model, tokens = build("tiny", vocab_size=30, dim=8), torch.randint(30, (3, length))
    mlm, nsp, hidden, pooled = model(tokens)
    assert (mlm.shape, nsp.shape, hidden.shape, pooled.shape) == ((3, length, 30), (3, 2), (3, length, 8), (3, 8))
    assert model(tokens, positions=torch.zeros(3, 4, dtype=torch.int64)).mlm.shape == (3, 4, 30)


def test_heads_are_there_as_asked_for() -> None:
    sizes = {}
    for mlm, nsp, pooler in [(True, False, None), (False, True, None), (False, False, True), (False, False, False)]:
        model = build("tiny", mlm=mlm, nsp=nsp, pooler=pooler)
        output = model(TOKENS)
        assert [output.mlm is not None, output.nsp is not None, output.pooled is not None] == [mlm, nsp, bool(nsp or pooler)]
        sizes[mlm, nsp, pooler] = count_parameters(model)
    encoder = sizes[False, False, False]
    assert sizes[False, False, True] == encoder + 16 * 16 + 16
    assert sizes[False, True, None] == encoder + 16 * 16 + 16 + 2 * 16 + 2
    assert sizes[True, False, None] == encoder + 16 * 16 + 16 + 2 * 16 + 50


# ---- by hand -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("changes", [{}, {"num_heads": 4, "depth": 1, "hidden_dim": 24}])
def test_network_is_the_formulas_in_outputs_gradients_and_steps(mode: str, changes: dict[str, int]) -> None:
    model = tiny(dropout=0.0, **changes)
    twin = ByHand(model, changes.get("num_heads", 2))
    testing.assert_same_as(Joined(model), Joined(twin), *INPUTS, train=mode == "train")
    short = (TOKENS[:2, :6], SEGMENTS[:2, :6], PADDING[:2, :6], POSITIONS[:2, :2] % 6)
    testing.assert_same_as(Joined(model), Joined(twin), *short, train=mode == "train", steps=1)


@pytest.mark.parametrize("std", [0.02, 0.09])
def test_weights_start_normal_with_their_stds(std: float) -> None:
    model = build("tiny", dim=128, vocab_size=500, max_length=200, std=std)
    linear = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            expected = std if name in linear else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.1), name
            assert abs(parameter.mean().item()) < 0.15 * expected, name
        else:
            assert (parameter == float("norm" in name and "weight" in name)).all(), name


def test_dropout_acts_in_training_at_the_embeddings_layers_and_attention_weights() -> None:
    for changes, places in [({"dropout": 0.3}, 0.3), ({"dropout": 0.3, "attention_dropout": 0.0}, 0.0)]:
        model = build("tiny", **changes)
        assert {block.attention.dropout.p for block in model.blocks} == {places}
        assert {model.dropout.p, *(block.dropout.p for block in model.blocks)} == {0.3}
    model = build("tiny", dropout=1.0)
    torch.testing.assert_close(model.blocks[0](model.dropout(torch.randn(1, 3, 16))), torch.zeros(1, 3, 16))
    assert model.eval()(TOKENS).hidden.any()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("activation", "theirs", "norm_eps"), [(nn.ReLU, "relu", 1e-5), (nn.GELU, "gelu", 1e-12)])
def test_block_is_torch_s_in_outputs_gradients_and_steps(activation: Any, theirs: str, norm_eps: float, mode: str) -> None:
    block = randomized(Block(8, 2, 12, 0.0, 0.3, activation, norm_eps))
    sizes = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "batch_first": True}
    reference = nn.TransformerEncoderLayer(**sizes, dropout=0.3, activation=theirs, layer_norm_eps=norm_eps)
    reference.dropout.p = 0.0  # inside the feed-forward, where BERT has none
    twin = testing.TorchBlock(block, reference, ["src_key_padding_mask"])
    testing.assert_same_as(block, twin, torch.randn(3, 9, 8), PADDING, train=mode == "train")


def test_dropout_of_a_layer_spares_the_shortcut_and_the_norm_after_it() -> None:
    block, x = randomized(Block(8, 2, 12, 1.0, 0.0, nn.GELU, 1e-5)), torch.randn(2, 3, 8)
    torch.testing.assert_close(block(x), block.norm2(block.norm1(x)))


def test_weights_and_moments_of_version_0_1_are_found_by_their_names() -> None:
    layers = {f"attention.layer.{name}": f"attention.{name}" for name in ("query", "key", "value", "output")}
    layers |= {"attention.norm": "norm1"} | {f"feed_forward.layer.{name}": f"feed_forward.{name}" for name in ("fc1", "fc2")}
    layers = {f"blocks.0.{old}": f"blocks.0.{new}" for old, new in (layers | {"feed_forward.norm": "norm2"}).items()}
    same = ("pooler.fc", "mlm_head.hidden", "mlm_head.norm", "nsp_head")
    layers = {"norm": "norm"} | layers | dict(zip(same, same))
    earlier = {f"{name}.weight": f"{name}.weight" for name in ("token_embedding", "segment_embedding")}
    earlier |= {"positions.table": "position_embedding", "mlm_head.bias": "mlm_head.bias"}
    earlier |= {f"{old}.{kind}": f"{new}.{kind}" for old, new in layers.items() for kind in ("weight", "bias")}
    testing.assert_earlier_names_load(build("tiny", depth=1), earlier)


# ---- laws ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model = Joined(tiny()).double().eval()
    before = model(*INPUTS)
    tokens, segments = torch.where(PADDING, torch.randint(50, TOKENS.shape), TOKENS), SEGMENTS.masked_fill(PADDING, 0)
    torch.testing.assert_close(model(tokens, segments, PADDING, POSITIONS), before, rtol=0, atol=1e-12)
    alone = model.model(TOKENS[2:, :3], SEGMENTS[2:, :3])
    together = model.model(TOKENS, SEGMENTS, PADDING)
    torch.testing.assert_close(alone.hidden[0], together.hidden[2, :3], rtol=0, atol=1e-12)
    torch.testing.assert_close(alone.nsp[0], together.nsp[2], rtol=0, atol=1e-12)


@torch.no_grad()
def test_every_token_sees_every_other() -> None:
    model, changed = tiny().double().eval(), TOKENS[:1].clone()
    for place in range(9):
        changed[0, place] += 1 if changed[0, place] < 49 else -1
        assert (model(changed).hidden != model(TOKENS[:1]).hidden).any(-1).all()
        changed = TOKENS[:1].clone()


@torch.no_grad()
def test_segments_matter_and_are_all_the_first_by_default() -> None:
    model = tiny().eval()
    assert torch.equal(model(TOKENS).hidden, model(TOKENS, torch.zeros_like(TOKENS)).hidden)
    assert not torch.allclose(model(TOKENS).nsp, model(TOKENS, SEGMENTS).nsp)


@torch.no_grad()
def test_logits_at_positions_are_those_of_all_logits() -> None:
    model = tiny().double().eval()
    everywhere, some = model(*INPUTS[:3]).mlm, model(*INPUTS).mlm
    for row in range(3):
        torch.testing.assert_close(some[row], everywhere[row, POSITIONS[row]], rtol=0, atol=1e-12)


def test_the_decoder_is_the_token_embedding() -> None:
    model = tiny()
    output = model(TOKENS).mlm
    (gradient,) = torch.autograd.grad(output[..., 1].sum(), model.token_embedding.weight)
    assert 1 not in TOKENS and gradient[1].any()


def test_longer_rows_than_positions_and_nsp_without_pooler_are_refused() -> None:
    with pytest.raises(ValueError, match="33 positions are asked for, the model has 32"):
        build("tiny")(torch.zeros(1, 33, dtype=torch.int64))
    with pytest.raises(ValueError, match="needs the pooler"):
        build("tiny", pooler=False)


# ---- the recipe ----------------------------------------------------------------------------------------------------


def config(out: Path, **changes: Any) -> train.Config:
    settings = {"model": "tiny", "length": 16, "epochs": 2, "batch_size": 16, "precision": "fp32", "lr": 1e-2}
    return train.Config(out=str(out), **{**settings, **changes})


def splits(words: int = 20) -> Splits:
    return pair_splits([paragraphs(i, words) for i in range(3)], train.Config(batch_size=16), length=16)


def batch() -> Batch:
    return next(splits().train.batches())


ONE_OBJECTIVE = ({"mlm": False}, {"nsp": False})
test_standard = testing.standard_checks(
    build,
    train.main,
    config(Path(), epochs=1),
    batch,
    splits=lambda config: splits(),
    task=PreTraining,
    variants=[{"max_length": 16}],
    prepare=randomized,
    inputs=lambda: INPUTS,
    output=Joined,
    overfit=[
        testing.Overfit({"dropout": 0.0, "dim": 32, **options}, task=partial(PreTraining, **options), lr=lr)
        for options, lr in zip(({}, *ONE_OBJECTIVE), (1e-2, 3e-3, 1e-2))
    ],
)


@pytest.mark.parametrize("objectives", [{}, {"mlm": False}, {"nsp": False}])
def test_history_holds_the_active_objectives(tmp_path: Path, no_figures: None, objectives: dict[str, bool]) -> None:
    train.main(config(tmp_path, epochs=1, **objectives), splits())
    names = {"loss"}
    if objectives.get("mlm", True):
        names |= {"mlm_loss", "mlm_top1_error", "mlm_top5_error"}
    if objectives.get("nsp", True):
        names |= {"nsp_loss", "nsp_error"}
    for record in read_json(tmp_path / "history.json"):
        for part in record.keys() & {"train", "val", "test"}:
            assert record[part].keys() == names


@pytest.mark.parametrize("objective", ONE_OBJECTIVE)
def test_one_objective_reaches_every_parameter_of_its_network(objective: dict[str, bool]) -> None:
    testing.assert_gradients_flow(build("tiny", max_length=16, **objective), batch(), PreTraining(**objective))


def test_another_vocabulary_than_the_run_s_is_refused(tmp_path: Path, no_figures: None) -> None:
    train.main(config(tmp_path, epochs=1), splits())
    with pytest.raises(UserError, match="vocabulary-tokens.json is another vocabulary: 25 tokens there, 24 here"):
        train.main(config(tmp_path, epochs=1), splits(words=19))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--no-mlm --no-nsp", "--mlm has to be on when --no-nsp turns the other objective off"),
        ("--model base --length 513", "--length has to be at most 512, the positions of base"),
        ("--length 4", "--length has to be at least 5"),
    ],
)
def test_impossible_flags_are_refused(capsys: pytest.CaptureFixture, flags: str, message: str) -> None:
    with pytest.raises(SystemExit):
        parse(train.Config, flags.split())
    assert message in capsys.readouterr().err
