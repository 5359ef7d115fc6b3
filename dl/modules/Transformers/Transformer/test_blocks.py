"""Positions, attention and blocks of the Transformer, against torch's and by their laws."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dl.modules.Transformers.Transformer.model import (
    DecoderBlock,
    EncoderBlock,
    MultiHeadAttention,
    SinusoidalPositions,
    feed_forward,
)
from dl.mytorch import Probe, testing
from dl.mytorch.introspect import count_parameters
from dl.mytorch.layers import KeyValueCache

# 3 sequences of 6 tokens: one without padding, two with padding at the end
PADDING = torch.tensor([[0] * 6, [0] * 4 + [1] * 2, [0] + [1] * 5], dtype=torch.bool)
FUTURE = torch.ones(6, 6, dtype=torch.bool).triu(1)
SIZES = {"dim": 8, "num_heads": 2, "hidden_dim": 12}
TORCH_SIZES = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "dropout": 0.0, "batch_first": True}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def block(kind: type, **options: Any) -> nn.Module:
    """Its norms have various scales and shifts, so that the output shows which norm is where."""
    made = kind(**{**SIZES, **options})
    for module in made.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return made


# ---- positions -----------------------------------------------------------------------------------------------------


def test_positions_are_those_of_section_3_5() -> None:
    table = SinusoidalPositions(50, 6).table
    for t in range(50):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_a_shift_of_the_position_is_a_rotation_of_each_pair() -> None:
    """What section 3.5 hopes for: PE(t + k) is a linear function of PE(t)."""
    pairs = torch.view_as_complex(SinusoidalPositions(40, 8).table.unflatten(1, (4, 2)).flip(-1).contiguous())  # cos + i sin
    turns = pairs[7] / pairs[0]
    torch.testing.assert_close(pairs[:33] * turns, pairs[7:])


def test_positions_are_added_from_the_start_on_and_are_no_parameters() -> None:
    layer, x = SinusoidalPositions(7, 4), torch.randn(2, 3, 4)
    torch.testing.assert_close(layer(x), x + layer.table[:3])
    torch.testing.assert_close(layer(x, start=4), x + layer.table[4:7])
    assert not layer.state_dict() and not list(layer.parameters())


def test_more_positions_than_there_are_and_an_odd_width_are_refused() -> None:
    with pytest.raises(ValueError, match="8 positions are asked for, the model has 7"):
        SinusoidalPositions(7, 4)(torch.zeros(2, 3, 4), start=5)
    with pytest.raises(ValueError, match="even; got 5"):
        SinusoidalPositions(3, 5)


# ---- attention -----------------------------------------------------------------------------------------------------


class TorchAttention(nn.Module):
    """A layer's parameters, run through torch's code."""

    def __init__(self, layer: MultiHeadAttention) -> None:
        super().__init__()
        self.layer = layer
        self.reference = [nn.MultiheadAttention(8, layer.num_heads, batch_first=True)]  # its own parameters do not count

    def forward(self, x: Tensor, context: Tensor | None = None, padding_mask: Tensor | None = None) -> Tensor:
        source = x if context is None else context
        options = {"key_padding_mask": padding_mask, "attn_mask": FUTURE if self.layer.causal else None, "need_weights": False}
        return functional_call(self.reference[0], testing.torch_names(self.layer), (x, source, source), options)[0]


@pytest.mark.parametrize("inputs", ["self", "causal", "cross"])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_attention_is_torch_s_in_outputs_gradients_and_steps(num_heads: int, inputs: str) -> None:
    layer = MultiHeadAttention(8, num_heads, causal=inputs == "causal")
    arguments = (torch.randn(3, 5, 8), torch.randn(3, 6, 8), PADDING) if inputs == "cross" else (torch.randn(3, 6, 8),)
    testing.assert_same_as(layer, TorchAttention(layer), *arguments)


@pytest.mark.parametrize("padding_mask", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize("cross", [False, True])
def test_the_weights_that_a_probe_sees_are_torch_s(cross: bool, padding_mask: Tensor | None) -> None:
    layer, x = MultiHeadAttention(8, 2).double(), random(3, 6, 8)
    context = random(3, 6, 8) if cross else x
    options = {"average_attn_weights": False, "key_padding_mask": padding_mask}
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    expected, weights = functional_call(reference, testing.torch_names(layer), (x, context, context), options)
    with Probe(layer, "weights") as probe:
        watched = layer(x, context if cross else None, padding_mask)
    torch.testing.assert_close(probe["weights"], weights)
    torch.testing.assert_close(watched, expected)


def test_cross_attention_knows_no_order_of_its_context() -> None:
    layer, order = MultiHeadAttention(8, 2).double(), torch.tensor([3, 0, 5, 1, 4, 2])
    x, context = random(2, 6, 8), random(2, 6, 8)
    torch.testing.assert_close(layer(x, context[:, order]), layer(x, context), rtol=0, atol=1e-12)
    testing.assert_batch_independent(layer, *torch.randn(2, 3, 6, 8), PADDING)


@torch.no_grad()
def test_cross_attention_projects_its_context_once() -> None:
    layer, cache = MultiHeadAttention(8, 2).double(), KeyValueCache(6)
    x, context = random(3, 4, 8), random(3, 6, 8)
    with Probe(layer, "key") as probe:
        steps = [layer(x[:, t : t + 1], context, PADDING, cache) for t in range(4)]
        assert probe.outputs.pop("key").shape == (3, 6, 8)
        layer(x, context, PADDING, cache)
        assert not probe.outputs
    torch.testing.assert_close(torch.cat(steps, dim=1), layer(x, context, PADDING), rtol=0, atol=1e-12)


def test_a_width_that_does_not_divide_into_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="dim 9 has to divide into num_heads 2"):
        MultiHeadAttention(9, 2)


# ---- blocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_encoder_block_is_torch_s_in_outputs_gradients_and_steps(norm_first: bool, mode: str) -> None:
    ours = block(EncoderBlock, norm_first=norm_first)
    reference = nn.TransformerEncoderLayer(**TORCH_SIZES, norm_first=norm_first)
    twin = testing.TorchBlock(ours, reference, ["src_key_padding_mask"])
    testing.assert_same_as(ours, twin, torch.randn(3, 6, 8), PADDING, train=mode == "train")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_block_is_torch_s_in_outputs_gradients_and_steps(norm_first: bool, mode: str) -> None:
    ours = block(DecoderBlock, norm_first=norm_first)
    reference = nn.TransformerDecoderLayer(**TORCH_SIZES, norm_first=norm_first)
    twin = testing.TorchBlock(ours, reference, ["memory_key_padding_mask"], tgt_mask=FUTURE)
    testing.assert_same_as(ours, twin, torch.randn(3, 6, 8), torch.randn(3, 5, 8), PADDING[:, :5], train=mode == "train")


def test_blocks_have_the_parameters_of_figure_1() -> None:
    attention, hidden = 4 * (8 * 8 + 8), (8 * 32 + 32) + (32 * 8 + 8)
    assert count_parameters(EncoderBlock(8, 2, 32)) == attention + hidden + 2 * 16
    assert count_parameters(DecoderBlock(8, 2, 32)) == 2 * attention + hidden + 3 * 16


def test_dropout_of_a_layer_spares_the_shortcut_and_the_norm_after_it() -> None:
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    for norm_first in (False, True):
        encoder, decoder = (block(kind, dropout=1.0, norm_first=norm_first) for kind in (EncoderBlock, DecoderBlock))
        torch.testing.assert_close(encoder(x), x if norm_first else encoder.norm2(encoder.norm1(x)))
        torch.testing.assert_close(decoder(x, memory), x if norm_first else decoder.norm3(decoder.norm2(decoder.norm1(x))))
        assert not torch.allclose(encoder.eval()(x), encoder.train()(x))


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_changes_nothing(norm_first: bool) -> None:
    encoder, decoder = (block(kind, norm_first=norm_first).double() for kind in (EncoderBlock, DecoderBlock))
    x, y = random(3, 6, 8), random(3, 6, 8)
    other = torch.where(PADDING[..., None], random(3, 6, 8), x)
    torch.testing.assert_close(encoder(other, PADDING)[~PADDING], encoder(x, PADDING)[~PADDING], rtol=0, atol=1e-12)
    torch.testing.assert_close(decoder(y, other, PADDING), decoder(y, x, PADDING), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_the_decoder_is_causal(norm_first: bool) -> None:
    memory, decoder = random(2, 5, 8), block(DecoderBlock, norm_first=norm_first).double()
    testing.assert_causal(lambda x: decoder(x, memory), random(2, 6, 8), random(2, 6, 8), tolerance=1e-12)


def test_a_sequence_depends_on_itself_alone() -> None:
    testing.assert_batch_independent(block(EncoderBlock), torch.randn(3, 6, 8), PADDING)
    testing.assert_batch_independent(block(DecoderBlock), torch.randn(3, 6, 8), torch.randn(3, 6, 8), PADDING)


def test_without_positions_a_permutation_of_the_tokens_permutes_the_output() -> None:
    encoder, x, order = block(EncoderBlock).double(), random(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(encoder(x[:, order]), encoder(x)[:, order], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("norm_first", [False, True])
def test_cached_steps_give_what_one_call_gives(norm_first: bool) -> None:
    decoder = block(DecoderBlock, norm_first=norm_first).double()
    x, memory = random(3, 6, 8), random(3, 5, 8)
    caches = {"cache": KeyValueCache(6), "memory_cache": KeyValueCache(5)}
    steps = torch.cat([decoder(part, memory, **caches) for part in x.split([2, 1, 1, 2], dim=1)], dim=1)
    torch.testing.assert_close(steps, decoder(x, memory), rtol=0, atol=1e-12)


def test_feed_forward_acts_at_each_position_alone() -> None:
    layer, x = feed_forward(4, 6), torch.randn(2, 3, 4)
    for t in range(3):
        torch.testing.assert_close(layer(x)[:, t], layer(x[:, t]))
