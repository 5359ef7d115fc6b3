"""The step of a decoder that writes one token, in fewer and larger operations.

At one token a row most of the time goes into calls, not into arithmetic. When writing begins, matrices that multiply the same
numbers are joined, and stored as products read them; parameters, names and checkpoints stay as they are:

    step = fused(model, length)                     # that of the model itself where its layers are others than those below
    logits = step(tokens, padding_mask, cache)      # tokens (B, T) -> (B, V), those after the last of them

Each model is compared once with what is computed here, on the longest text that will be written: who changes a block gets what
the block computes.
"""

import math
from inspect import signature
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.layers import KeyValueCache, RotaryPositions

# B batch, T tokens, S tokens with those in the cache, C width, H heads, G heads of keys and values, D width of a head,
# V vocabulary

MOST_BYTES = 2**30  # of parameters, which are copied; a larger network spends its time in products
BLOCK = {"norm1", "attention", "norm2", "feed_forward", "dropout"}
ATTENTION = {"query", "key", "value", "weights", "dropout", "output"}  # and none or some of:
OPTIONAL = {"rotary", "query_norm", "key_norm"}
FEED_FORWARDS = ({"fc1", "act", "fc2"}, {"gate", "up", "down"})
LINEAR = {"query", "key", "value", "output", "fc1", "fc2", "gate", "up", "down"}


class Step(Protocol):
    """What continues texts: tokens (B, T), the padding mask (B, S) or None, the cache or None -> logits (B, V)."""

    def __call__(self, tokens: Tensor, padding_mask: Tensor | None, cache: Any) -> Tensor: ...


def plain(model: nn.Module) -> Step:
    """Return the logits that the model has after the last token, without those before where it has `last_only`."""
    only = {"last_only": True} if "last_only" in signature(model.forward).parameters else {}
    return lambda tokens, padding_mask, cache: model(tokens, padding_mask, cache, **only)[:, -1]


def fused(model: nn.Module, length: int) -> Step:
    """Return the same in fewer operations, for calls with a cache and texts of up to `length` tokens.

    It is `plain` where blocks have other layers, or hooks that look at them, or where the two differ.
    """
    blocks, parameters = getattr(model, "blocks", ()), list(model.parameters())
    fits = (
        len(blocks) > 0
        and {"before_blocks", "token_embedding", "norm"} <= set(dir(model))
        and all(_is_known(block) for block in blocks)
        and sum(p.numel() * p.element_size() for p in parameters) <= MOST_BYTES
        and len({(p.dtype, p.device) for p in parameters}) == 1
        and not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        and getattr(model, "_compiled_call_impl", None) is None  # by `model.compile()`
    )
    if not fits:
        return plain(model)
    step = Fused(model)
    if _compared.get(model, 0) < length:
        if not _agree(model, step, length):
            return plain(model)
        _compared[model] = length
    return step


_compared: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # model -> the length at which it agreed


def _agree(model: nn.Module, step: "Fused", length: int) -> bool:
    """Whether both compute the same logits after a text of so many tokens."""
    if length < 2:
        return False
    embedding, cache = model.token_embedding, model.new_cache()
    tokens = torch.arange(length, device=embedding.weight.device)[None] % embedding.num_embeddings
    step.plain(tokens[:, :-1], None, cache)
    logits = step(tokens[:, -1:], None, cache)
    for kept in cache:
        kept.length = length - 1  # the model computes the last token once more
    expected = step.plain(tokens[:, -1:], None, cache)
    error = math.sqrt(torch.finfo(logits.dtype).eps)  # far above what another order of sums makes of the last digit
    return bool((logits - expected).abs().max() <= error * expected.abs().max())


def _is_known(block: nn.Module) -> bool:
    """Whether a block has the layers that `FusedBlock` joins, and no others."""
    if _names(block) != BLOCK:
        return False
    attention, feed_forward = block.attention, block.feed_forward
    linear = [getattr(part, name) for part in (attention, feed_forward) for name in _names(part) & LINEAR]
    rotary = getattr(attention, "rotary", None)
    return (
        ATTENTION <= _names(attention) <= ATTENTION | OPTIONAL
        and _names(feed_forward) in FEED_FORWARDS
        and all(type(layer) is nn.Linear for layer in linear)
        and (rotary is None or (type(rotary) is RotaryPositions and rotary.scaling is None))
    )


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


class Product:
    """x W + b of one layer or of several joined ones: x (B, inputs) -> (B, outputs)."""

    def __init__(self, *layers: nn.Linear) -> None:
        self.weight = torch.cat([layer.weight for layer in layers]).T.contiguous()  # (inputs, outputs)
        self.bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def added_to(self, shortcut: Tensor, x: Tensor) -> Tensor:
        """Return shortcut (B, outputs) + x W + b."""
        y = torch.addmm(shortcut, x, self.weight)
        return y if self.bias is None else y + self.bias


class FusedBlock:
    """What a block computes for one token a row."""

    def __init__(self, block: nn.Module) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        self.norm1, self.norm2 = block.norm1, block.norm2
        self.norms = (attention.query_norm, attention.key_norm) if hasattr(attention, "query_norm") else None
        self.project = Product(attention.query, attention.key, attention.value)
        self.output = Product(attention.output)
        self.gated = hasattr(feed_forward, "gate")
        if self.gated:
            self.act, self.widen, self.narrow = F.silu, Product(feed_forward.gate, feed_forward.up), Product(feed_forward.down)
        else:
            self.act, self.widen, self.narrow = feed_forward.act, Product(feed_forward.fc1), Product(feed_forward.fc2)
        width = attention.head_dim if hasattr(attention, "head_dim") else attention.query.out_features // attention.num_heads
        self.width, self.groups = width, attention.key.out_features // width
        self.heads = attention.query.out_features // width

    def __call__(self, x: Tensor, kept: KeyValueCache, seen: Tensor | None, angle: tuple[Tensor, Tensor] | None) -> Tensor:
        """x (B, C), of the attention what is seen (B, 1, 1, S), of the rotary positions cos and sin (D/2,) -> (B, C)."""
        rows, heads, groups, width = len(x), self.heads, self.groups, self.width
        parts = self.project(self.norm1(x)).view(rows, heads + 2 * groups, width)
        turned, value = parts[:, : heads + groups], parts[:, heads + groups :]  # queries and keys, (B, H + G, D)
        if self.norms is not None:
            turned = torch.cat([self.norms[0](turned[:, :heads]), self.norms[1](turned[:, heads:])], dim=1)
        if angle is not None:
            (cos, sin), (left, right) = angle, turned.chunk(2, dim=-1)
            turned = torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)
        keys, values = kept.append(turned[:, heads:, None], value[:, :, None])  # (B, G, S, D)
        queries = turned[:, :heads].reshape(rows, groups, -1, width)  # those that share a key side by side, (B, G, H / G, D)
        y = F.scaled_dot_product_attention(queries, keys, values, seen)
        x = self.output.added_to(x, y.reshape(rows, -1))
        hidden = self.widen(self.norm2(x))
        if self.gated:
            gate, up = hidden.chunk(2, dim=-1)
            return self.narrow.added_to(x, self.act(gate) * up)
        return self.narrow.added_to(x, self.act(hidden))


class Fused:
    """A decoder of pre-norm blocks with joined matrices, for inference. A prompt passes through the model itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.plain = model, plain(model)
        self.blocks = [FusedBlock(block) for block in model.blocks]
        self.rotary = getattr(model.blocks[0].attention, "rotary", None)
        output = getattr(model, "output", None) or model.token_embedding
        self.logits = output.weight.T.contiguous()  # (C, V)

    def __call__(self, tokens: Tensor, padding_mask: Tensor | None, cache: list[KeyValueCache]) -> Tensor:
        """Return the logits (B, V) after tokens (B, T)."""
        start = cache[0].length
        if tokens.shape[1] > 1 or start == 0:
            return self.plain(tokens, padding_mask, cache)
        if self.rotary is None:
            x, angle = self.model.before_blocks(tokens, padding_mask, start)[:, 0], None  # (B, C)
        else:
            x, angle = self.model.before_blocks(tokens)[:, 0], (self.rotary.cos[start], self.rotary.sin[start])
        seen = None if padding_mask is None else ~padding_mask[:, None, None]  # (B, 1, 1, S)
        for block, kept in zip(self.blocks, cache):
            x = block(x, kept, seen, angle)
        return self.model.norm(x) @ self.logits
