"""Attention against torch's, against its own formula, and by its laws."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from dl.mytorch import Probe, testing
from dl.mytorch.layers import KeyValueCache, attention, fused_attention

# 3 sequences of 6 tokens: one without padding, two with padding at the end
PADDING = torch.tensor([[0] * 6, [0] * 4 + [1] * 2, [0] + [1] * 5], dtype=torch.bool)
FUTURE = torch.ones(6, 6, dtype=torch.bool).triu(1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


class Heads(nn.Module):
    """`fused_attention` between projections, as models have it."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        causal: bool = False,
        num_kv_heads: int | None = None,
    ) -> None:
        super().__init__()
        self.causal, self.head_dim = causal, dim // num_heads
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key, self.value = (nn.Linear(dim, (num_kv_heads or num_heads) * self.head_dim, bias=bias) for _ in range(2))
        self.weights = nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor, padding_mask: Tensor | None = None, cache: KeyValueCache | None = None) -> Tensor:
        projections = (self.query, self.key, self.value)
        query, key, value = (layer(x).unflatten(2, (-1, self.head_dim)).transpose(1, 2) for layer in projections)
        if cache is not None:
            key, value = cache.append(key, value)
        y = fused_attention(query, key, value, padding_mask, self.causal, self.dropout, self.weights)
        return self.output(y.transpose(1, 2).flatten(2))


class TorchTwin(nn.Module):
    """A layer's parameters, run through torch's code."""

    def __init__(self, layer: Heads, reference: nn.MultiheadAttention) -> None:
        super().__init__()
        self.layer = copy.deepcopy(layer)
        self.reference = [reference]  # in a list: its own parameters do not count

    def forward(self, x: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        options = {"key_padding_mask": padding_mask, "attn_mask": FUTURE if self.layer.causal else None, "need_weights": False}
        self.reference[0].train(self.training)
        return functional_call(self.reference[0], testing.torch_names(self.layer), (x, x, x), options)[0]


class Padded(nn.Module):
    """`layer` as self-attention, for `assert_same_as`, which names no arguments."""

    def __init__(self, layer: nn.Module, padding_mask: Tensor | None) -> None:
        super().__init__()
        self.layer = layer
        self.padding_mask = padding_mask

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, padding_mask=self.padding_mask)


# ---- equality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padding_mask", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize(("num_heads", "bias"), [(1, True), (4, False)])
def test_self_attention_is_torch_s(num_heads: int, bias: bool, padding_mask: Tensor | None, causal: bool, mode: str) -> None:
    layer = Heads(8, num_heads, dropout=0.3, bias=bias, causal=causal)
    reference = nn.MultiheadAttention(8, num_heads, dropout=0.3, bias=bias, batch_first=True)
    twin = TorchTwin(layer, reference)
    ours, theirs = Padded(layer, padding_mask), Padded(twin, padding_mask)
    testing.assert_same_as(ours, theirs, torch.randn(3, 6, 8), train=mode == "train")


@pytest.mark.parametrize("padding_mask", [None, PADDING], ids=["full", "padded"])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"num_kv_heads": 2}, {"num_kv_heads": 1, "causal": True}])
def test_the_formula_is_what_is_computed(options: dict[str, Any], padding_mask: Tensor | None) -> None:
    layer = Heads(8, 4, **options).double()
    x = random(3, 6, 8).requires_grad_()

    def output_and_gradients() -> list[Tensor]:
        y = layer(x, padding_mask=padding_mask)
        return [y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum(), [x, *layer.parameters()])]

    fast = output_and_gradients()
    with Probe(layer, "weights") as probe:
        plain = output_and_gradients()
    for one, other in zip(fast, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert probe["weights"].shape == (3, 4, 6, 6)


def test_weights_are_torch_s() -> None:
    layer = Heads(8, 2).double()
    reference = nn.MultiheadAttention(8, 2, batch_first=True)
    x = random(3, 6, 8)
    _, expected = functional_call(reference, testing.torch_names(layer), (x, x, x), {"average_attn_weights": False})
    with Probe(layer, "weights") as probe:
        layer(x)
    torch.testing.assert_close(probe["weights"], expected)


def test_formula_by_hand() -> None:
    query, key = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]]), torch.eye(4)[None, None, :3]
    value = torch.tensor([[[[1.0], [10.0], [100.0]]]])
    output, weights = attention(query, key, value, torch.tensor([False, False, True]))
    share = torch.tensor(0.5).exp() / (torch.tensor(0.5).exp() + 1)  # scores 1 / sqrt(4), 0, and nothing
    torch.testing.assert_close(weights, torch.stack([share, 1 - share, torch.tensor(0.0)])[None, None, None])
    torch.testing.assert_close(output.squeeze(), share + 10 * (1 - share))


def test_keys_that_are_seen_share_all_weight_however_low_their_scores() -> None:
    _, weights = attention(torch.full((1, 1, 1, 4), -1e6), torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4), torch.arange(3) == 1)
    assert weights.flatten().tolist() == [0.5, 0.0, 0.5]


def test_dropout_of_the_formula_is_that_of_the_fast_path() -> None:
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    torch.manual_seed(1)
    plain, weights = attention(query, key, value, dropout=nn.Dropout(0.4))
    torch.manual_seed(1)
    torch.testing.assert_close(plain, F.scaled_dot_product_attention(query, key, value, dropout_p=0.4))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))  # before dropout


def test_each_group_of_queries_heads_shares_keys_and_values() -> None:
    grouped, full = Heads(12, 6, num_kv_heads=2), Heads(12, 6)
    for name in ("query", "output"):
        getattr(full, name).load_state_dict(getattr(grouped, name).state_dict())
    for name in ("key", "value"):
        few, many = getattr(grouped, name), getattr(full, name)
        many.weight.data = few.weight.data.view(2, 2, 12).repeat_interleave(3, dim=0).flatten(0, 1)  # heads 0 0 0 1 1 1
        many.bias.data = few.bias.data.view(2, 2).repeat_interleave(3, dim=0).flatten()
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(grouped(x), full(x))


@pytest.mark.parametrize("padding_mask", [None, PADDING], ids=["full", "padded"])
def test_in_bf16_on_a_cpu_the_formula_is_used_and_is_as_good(
    padding_mask: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = Heads(8, 4, causal=True, num_kv_heads=2), torch.randn(3, 6, 8)
    expected = layer(x, padding_mask=padding_mask)
    monkeypatch.setattr(F, "scaled_dot_product_attention", None)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x, padding_mask=padding_mask).float(), expected, rtol=0, atol=0.02)
    with pytest.raises(TypeError):
        layer(x)


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_a_query_that_sees_nothing_gives_the_output_s_bias_and_no_nan(causal: bool, dtype: torch.dtype, watched: bool) -> None:
    layer = Heads(8, 2, causal=causal).to(dtype)
    x = torch.randn(2, 5, 8, dtype=dtype, requires_grad=True)
    padding_mask = torch.zeros(2, 5, dtype=torch.bool)
    padding_mask[0, :2] = True  # with the causal mask, positions 0 and 1 see nothing
    padding_mask[1] = True
    with Probe(layer, *(["weights"] if watched else [])):
        y = layer(x, padding_mask=padding_mask)
    y.square().sum().backward()
    assert torch.equal(y[1], layer.output.bias.expand(5, 8))
    assert not causal or torch.equal(y[0, :2], layer.output.bias.expand(2, 8))
    for tensor in (y, x.grad, *(p.grad for p in layer.parameters())):
        assert tensor.isfinite().all()


def test_padding_gets_no_weight_and_changes_nothing() -> None:
    layer = Heads(8, 2).double()
    x = random(3, 6, 8)
    changed = torch.where(PADDING[..., None], 100 * random(3, 6, 8), x)
    with Probe(layer, "weights") as probe:
        layer(x, padding_mask=PADDING)
    assert (probe["weights"][PADDING[:, None, None].expand(3, 2, 6, 6)] == 0).all()
    before, after = (layer(inputs, padding_mask=PADDING) for inputs in (x, changed))
    torch.testing.assert_close(after[~PADDING], before[~PADDING], rtol=0, atol=1e-12)
    assert not torch.allclose(layer(changed)[~PADDING], layer(x)[~PADDING])


def test_a_sequence_without_its_padding_gives_the_same() -> None:
    layer = Heads(8, 2).double()
    x = random(3, 6, 8)
    torch.testing.assert_close(layer(x, padding_mask=PADDING)[1, :4], layer(x[1:2, :4])[0], rtol=0, atol=1e-12)


def test_texts_that_share_a_row_give_what_each_gives_alone() -> None:
    layer = Heads(8, 4, causal=True, num_kv_heads=2).double()
    x, texts = random(2, 6, 8), torch.tensor([0, 0, 0, 0, 1, 1])
    others = (texts[:, None] != texts).expand(2, 6, 6)
    expected = torch.cat([layer(x[:, :4]), layer(x[:, 4:])], dim=1)
    torch.testing.assert_close(layer(x, padding_mask=others), expected, rtol=0, atol=1e-12)
    with Probe(layer, "weights"):  # by the formula
        torch.testing.assert_close(layer(x, padding_mask=others), expected, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="padding_mask has to be bool"):
        layer(x, padding_mask=others[:, :5])


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_causal_attention_does_not_see_the_future(num_kv_heads: int) -> None:
    layer = Heads(8, 4, causal=True, num_kv_heads=num_kv_heads).double()
    x, changed = random(2, 6, 8), random(2, 6, 8)
    testing.assert_causal(layer, x, changed, tolerance=1e-12)
    testing.assert_causal(lambda x: layer(x, padding_mask=torch.zeros(2, 6, dtype=torch.bool)), x, changed, tolerance=1e-12)


def test_a_sequence_depends_on_itself_alone() -> None:
    testing.assert_batch_independent(Heads(8, 2), torch.randn(3, 6, 8), PADDING)


def test_without_positions_a_permutation_of_the_tokens_permutes_the_output() -> None:
    layer, x, order = Heads(8, 2).double(), random(2, 6, 8), torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=0, atol=1e-12)


# ---- cache ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("sizes", [[1] * 6, [3, 1, 2], [6]], ids=str)
@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_cached_steps_give_what_one_call_gives(num_kv_heads: int, sizes: list[int], watched: bool) -> None:
    layer = Heads(8, 4, causal=True, num_kv_heads=num_kv_heads).double()
    x, padding_mask = random(3, 6, 8), PADDING.flip(1)  # prompts are padded on the left
    cache, end, steps = KeyValueCache(7), 0, []
    with Probe(layer, *(["weights"] if watched else [])):
        for part in x.split(sizes, dim=1):
            end += part.shape[1]
            steps.append(layer(part, padding_mask=padding_mask[:, :end], cache=cache))
    torch.testing.assert_close(torch.cat(steps, dim=1), layer(x, padding_mask=padding_mask), rtol=0, atol=1e-12)
    assert cache.length == 6


def test_values_in_a_cache_may_be_wider_than_keys() -> None:
    cache, key, value = KeyValueCache(4), random(2, 1, 3, 4), random(2, 1, 3, 6)
    cache.append(key[:, :, :2], value[:, :, :2])
    for kept, given in zip(cache.append(key[:, :, 2:], value[:, :, 2:]), (key, value)):
        assert torch.equal(kept, given)


@torch.no_grad()
def test_cached_steps_without_padding_give_what_one_call_gives() -> None:
    layer = Heads(8, 2, causal=True).double()
    x, cache = random(3, 6, 8), KeyValueCache(6)
    steps = [layer(part, cache=cache) for part in x.split([2, 1, 3], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), layer(x), rtol=0, atol=1e-12)


@torch.no_grad()
def test_rows_of_a_cache_are_selected_as_a_beam_search_needs() -> None:
    layer, rows = Heads(8, 2, causal=True).double(), torch.tensor([2, 0, 2])
    x, new, cache = random(3, 4, 8), random(3, 1, 8), KeyValueCache(5)
    layer(x, cache=cache)
    cache.select(rows)
    expected = layer(torch.cat([x[rows], new], dim=1))[:, -1:]
    torch.testing.assert_close(layer(new, cache=cache), expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_cache_keeps_its_memory_and_refuses_what_does_not_fit() -> None:
    layer, cache = Heads(8, 2, causal=True), KeyValueCache(3)
    layer(torch.randn(1, 1, 8), cache=cache)
    address = cache.keys.data_ptr()
    layer(torch.randn(1, 2, 8), cache=cache)
    assert cache.keys.data_ptr() == address
    with pytest.raises(ValueError, match="room for 3 positions: no 1 after 3"):
        layer(torch.randn(1, 1, 8), cache=cache)


# ---- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [PADDING.long(), PADDING[:, :1], PADDING[:1]], ids=["numbers", "one key", "one sequence"])
def test_a_mask_of_another_type_or_shape_is_refused(mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"has to be bool \(3, 6\)"):
        Heads(8, 2)(torch.randn(3, 6, 8), padding_mask=mask)


@pytest.mark.gpu
def test_on_cuda_too_a_query_that_sees_nothing_gives_the_output_s_bias() -> None:
    layer = Heads(64, 2).cuda()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 16, 64, device="cuda", requires_grad=True)
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
            y = layer(x, padding_mask=torch.ones(2, 16, dtype=torch.bool, device="cuda"))
        y.square().sum().backward()
        torch.testing.assert_close(y.float(), layer.output.bias.to(dtype).float().expand(2, 16, 64))
        assert x.grad.isfinite().all()
