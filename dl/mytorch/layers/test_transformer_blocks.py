"""Blocks against torch's encoder and decoder layers, and by their laws."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters
from dl.mytorch.layers import DecoderBlock, EncoderBlock, KeyValueCache, feed_forward
from dl.mytorch.layers.test_attention import FUTURE, PADDING, torch_names
from dl.mytorch.layers.test_attention import torch_s_random_numbers  # noqa: F401, a fixture

SIZES = {"dim": 8, "num_heads": 2, "hidden_dim": 12}
TORCH_SIZES = {"d_model": 8, "nhead": 2, "dim_feedforward": 12, "batch_first": True}
DROPOUT = {"attention_dropout": 0.3, "hidden_dropout": 0.3}  # the third one draws in another order of memory than torch's


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class TorchTwin(nn.Module):
    """A block's parameters, run through torch's layer."""

    def __init__(self, block: nn.Module, reference: nn.Module, **options: Any) -> None:
        super().__init__()
        self.block = copy.deepcopy(block)
        for module in reference.children():
            if isinstance(module, nn.Dropout) and module is not reference.dropout:  # all but the feed-forward's
                module.p = 0.0
        self.reference = [reference]  # in a list: its own parameters do not count
        self.options = options

    def forward(self, *inputs: Tensor) -> Tensor:
        encoder = isinstance(self.block, EncoderBlock)
        attentions = {"self_attn": "attention" if encoder else "self_attention"}
        attentions |= {} if encoder else {"multihead_attn": "cross_attention"}
        named = {}
        for name, our in attentions.items():
            layer = getattr(self.block, our).layer
            named |= {f"{name}.{part}": tensor for part, tensor in torch_names(layer).items()}
        norms = [residual.norm for residual in self.block.children()]
        others = {f"norm{i}": norm for i, norm in enumerate(norms, start=1)}
        others |= {"linear1": self.block.feed_forward.layer.fc1, "linear2": self.block.feed_forward.layer.fc2}
        for name, layer in others.items():
            named |= {f"{name}.{part}": tensor for part, tensor in layer.named_parameters()}
        masks = ["src_key_padding_mask"] if encoder else ["tgt_key_padding_mask", "memory_key_padding_mask"]
        streams = len(masks)  # x, or x and memory
        options = {**dict(zip(masks, inputs[streams:])), **self.options}
        self.reference[0].train(self.training)
        return functional_call(self.reference[0], named, inputs[:streams], options)


def randomized(block: nn.Module) -> nn.Module:
    """Norms with scales and shifts of their own: which norm is where shows in the output."""
    for module in block.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias)
    return block


# ---- torch ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("activation", "theirs", "norm_eps", "bias"),
    [(nn.ReLU, "relu", 1e-5, True), (nn.GELU, "gelu", 1e-12, True), (partial(nn.GELU, "tanh"), nn.GELU("tanh"), 0.1, False)],
    ids=["relu", "gelu", "gelu_tanh"],
)
def test_encoder_block_is_torch_s_in_outputs_gradients_and_steps(
    activation: Any, theirs: Any, norm_eps: float, bias: bool, causal: bool, norm_first: bool, mode: str
) -> None:
    common = {"norm_first": norm_first, "bias": bias}
    block = randomized(EncoderBlock(**SIZES, **DROPOUT, **common, causal=causal, activation=activation, norm_eps=norm_eps))
    reference = nn.TransformerEncoderLayer(**TORCH_SIZES, **common, dropout=0.3, activation=theirs, layer_norm_eps=norm_eps)
    twin = TorchTwin(block, reference, src_mask=FUTURE if causal else None)
    testing.assert_same_as(block, twin, torch.randn(3, 6, 8), PADDING, train=mode == "train")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_block_is_torch_s_in_outputs_gradients_and_steps(norm_first: bool, mode: str) -> None:
    block = randomized(DecoderBlock(**SIZES, **DROPOUT, norm_first=norm_first, activation=nn.ReLU))
    reference = nn.TransformerDecoderLayer(**TORCH_SIZES, norm_first=norm_first, dropout=0.3)
    twin = TorchTwin(block, reference, tgt_mask=FUTURE)
    testing.assert_same_as(
        block, twin, torch.randn(3, 6, 8), torch.randn(3, 5, 8), PADDING, PADDING[:, :5], train=mode == "train"
    )


def test_sizes_default_to_the_paper_s_ratio() -> None:
    assert count_parameters(EncoderBlock(8, 2)) == 4 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 2 * 16
    assert count_parameters(DecoderBlock(8, 2)) == 8 * (8 * 8 + 8) + (8 * 32 + 32) + (32 * 8 + 8) + 3 * 16
    assert count_parameters(EncoderBlock(8, 2, bias=False)) == 4 * 64 + 2 * 256 + 2 * 8


@pytest.mark.parametrize("place", ["dropout", "attention_dropout", "hidden_dropout"])
def test_each_dropout_acts_in_its_place_in_training_only(place: str) -> None:
    """With everything dropped, what is left shows where: nothing of a branch, or the bias behind it."""
    block = EncoderBlock(8, 2, norm_first=True, **{place: 1.0})
    x = torch.randn(2, 3, 8)
    attended = x + block.attention.layer(block.attention.norm(x)) if place == "hidden_dropout" else x
    if place == "attention_dropout":
        attended = x + block.attention.layer.output.bias
    expected = attended
    if place == "attention_dropout":
        expected = attended + block.feed_forward.layer(block.feed_forward.norm(attended))
    elif place == "hidden_dropout":
        expected = attended + block.feed_forward.layer.fc2.bias
    torch.testing.assert_close(block(x), expected)
    block.eval()
    assert not torch.allclose(block(x), expected)


def test_dropout_of_a_branch_spares_the_shortcut_and_the_norm_behind_it() -> None:
    block, x = randomized(EncoderBlock(8, 2, dropout=1.0)), torch.randn(2, 3, 8)
    torch.testing.assert_close(block(x), block.feed_forward.norm(block.attention.norm(x)))


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
def test_padding_changes_nothing(norm_first: bool) -> None:
    encoder, decoder = (kind(8, 2, norm_first=norm_first).double() for kind in (EncoderBlock, DecoderBlock))
    x, y = random(3, 6, 8), random(3, 6, 8)
    other_x, other_y = (torch.where(PADDING[..., None], random(3, 6, 8), tensor) for tensor in (x, y))
    torch.testing.assert_close(encoder(other_x, PADDING)[~PADDING], encoder(x, PADDING)[~PADDING], rtol=0, atol=1e-12)
    before, after = decoder(y, x, PADDING, PADDING), decoder(other_y, other_x, PADDING, PADDING)
    torch.testing.assert_close(after[~PADDING], before[~PADDING], rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm_first", [False, True])
def test_decoders_are_causal(norm_first: bool) -> None:
    x, changed, memory = random(2, 6, 8), random(2, 6, 8), random(2, 5, 8)
    decoder = DecoderBlock(8, 2, norm_first=norm_first).double()
    testing.assert_causal(lambda x: decoder(x, memory), x, changed, tolerance=1e-12)
    testing.assert_causal(EncoderBlock(8, 2, norm_first=norm_first, causal=True).double(), x, changed, tolerance=1e-12)


def test_a_sequence_depends_on_itself_alone() -> None:
    testing.assert_batch_independent(EncoderBlock(8, 2), torch.randn(3, 6, 8), PADDING)
    testing.assert_batch_independent(DecoderBlock(8, 2), torch.randn(3, 6, 8), torch.randn(3, 6, 8), PADDING, PADDING)


def test_without_positions_a_permutation_of_the_tokens_permutes_the_output() -> None:
    block, x, order = EncoderBlock(8, 2).double(), random(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order], rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("norm_first", [False, True])
def test_cached_steps_give_what_one_call_gives(norm_first: bool) -> None:
    encoder = EncoderBlock(8, 2, norm_first=norm_first, causal=True).double()
    decoder = DecoderBlock(8, 2, norm_first=norm_first).double()
    x, memory = random(3, 6, 8), random(3, 5, 8)
    parts = x.split([2, 1, 1, 2], dim=1)
    cache = KeyValueCache(6)
    steps = torch.cat([encoder(part, cache=cache) for part in parts], dim=1)
    torch.testing.assert_close(steps, encoder(x), rtol=0, atol=1e-12)
    caches = {"cache": KeyValueCache(6), "memory_cache": KeyValueCache(5)}
    steps = torch.cat([decoder(part, memory, **caches) for part in parts], dim=1)
    torch.testing.assert_close(steps, decoder(x, memory), rtol=0, atol=1e-12)


def test_feed_forward_acts_at_each_position_alone() -> None:
    layer, x = feed_forward(4, 6), torch.randn(2, 3, 4)
    for t in range(3):
        torch.testing.assert_close(layer(x)[:, t], layer(x[:, t]))
