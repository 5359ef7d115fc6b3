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
NORMS = (nn.LayerNorm, nn.RMSNorm)
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
        and _is_scaling_norm(model.norm)
        and sum(p.numel() * p.element_size() for p in parameters) <= MOST_BYTES
        and len({(p.dtype, p.device) for p in parameters}) == 1
        and parameters[0].dtype in (torch.float32, torch.float64)  # a sum of squares in half precision would be none
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
    norms = [block.norm1, block.norm2, *(getattr(attention, name) for name in _names(attention) & {"query_norm", "key_norm"})]
    rotary = getattr(attention, "rotary", None)
    return (
        ATTENTION <= _names(attention) <= ATTENTION | OPTIONAL
        and _names(feed_forward) in FEED_FORWARDS
        and all(type(layer) is nn.Linear for layer in linear)
        and all(map(_is_scaling_norm, norms))
        and (rotary is None or (type(rotary) is RotaryPositions and rotary.scaling is None))
    )


def _is_scaling_norm(layer: nn.Module) -> bool:
    return type(layer) in NORMS and layer.weight is not None


def _names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


class Product:
    """x W + b of one layer or of several joined ones, of x after a norm if there is one: x (B, inputs) -> (B, outputs).

    The weight of an RMSNorm is in W: sqrt(inputs) x / sqrt(|x|^2 + inputs eps) is x over the root of the mean of its squares.
    """

    def __init__(self, *layers: nn.Module, norm: nn.Module | None = None) -> None:
        weight = torch.cat([layer.weight for layer in layers]).T  # (inputs, outputs)
        self.bias = None if getattr(layers[0], "bias", None) is None else torch.cat([layer.bias for layer in layers])
        self.layer_norm = norm if isinstance(norm, nn.LayerNorm) else None
        self.least = None
        if isinstance(norm, nn.RMSNorm):
            scale, self.least = rms_scale(norm)
            weight = scale[:, None] * weight
        self.weight = weight.contiguous()  # as products read it

    def __call__(self, x: Tensor) -> Tensor:
        if self.layer_norm is not None:
            norm = self.layer_norm
            x = F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        elif self.least is not None:
            x = x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self.least)
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def added_to(self, shortcut: Tensor, x: Tensor) -> Tensor:
        """Return shortcut (B, outputs) + x W + b."""
        y = torch.addmm(shortcut, x, self.weight)
        return y if self.bias is None else y + self.bias


def rms_scale(norm: nn.RMSNorm) -> tuple[Tensor, Tensor]:
    """Return what an RMSNorm multiplies x / hypot(|x|, least) with, (C,), and `least`, ()."""
    eps = torch.finfo(norm.weight.dtype).eps if norm.eps is None else norm.eps
    return norm.weight * math.sqrt(len(norm.weight)), norm.weight.new_tensor(math.sqrt(len(norm.weight) * eps))


class FusedBlock:
    """What a block computes for one token a row. Queries come multiplied with 1 / sqrt(D)."""

    def __init__(self, block: nn.Module) -> None:
        attention, feed_forward = block.attention, block.feed_forward
        width = attention.head_dim if hasattr(attention, "head_dim") else attention.query.out_features // attention.num_heads
        self.width, self.groups = width, attention.key.out_features // width
        self.heads = attention.query.out_features // width
        self.project = Product(attention.query, attention.key, attention.value, norm=block.norm1)
        self.output = Product(attention.output)
        self.gated = hasattr(feed_forward, "gate")
        if self.gated:
            self.act, self.narrow = F.silu, Product(feed_forward.down)
            self.widen = Product(feed_forward.gate, feed_forward.up, norm=block.norm2)
        else:
            self.act, self.narrow = feed_forward.act.forward, Product(feed_forward.fc2)
            self.widen = Product(feed_forward.fc1, norm=block.norm2)
        self.scale = None
        if hasattr(attention, "query_norm"):  # of each head, (H + G, D), and what keeps it finite, (H + G, 1)
            counts = (self.heads, self.groups)
            scales, least = zip(*map(rms_scale, (attention.query_norm, attention.key_norm)))
            self.scale = torch.cat([scale.expand(n, -1) for scale, n in zip(scales, counts)])
            self.least = torch.cat([value.expand(n, 1) for value, n in zip(least, counts)])
            self.scale[: self.heads] /= math.sqrt(width)
        else:
            for tensor in (self.project.weight, self.project.bias):
                if tensor is not None:
                    tensor[..., : self.heads * width] /= math.sqrt(width)

    def __call__(self, x: Tensor, kept: KeyValueCache, seen: Tensor | None, angle: tuple[Tensor, Tensor] | None) -> Tensor:
        """x (B, C), seen (B, 1, 1, S) or None for all, of the rotary positions cos and sin (D,), as of `Fused` -> (B, C)."""
        rows, heads, groups, width = len(x), self.heads, self.groups, self.width
        parts = self.project(x).view(rows, heads + 2 * groups, width)
        turned, value = parts.split((heads + groups, groups), dim=1)  # queries and keys together, (B, H + G, D)
        if self.scale is not None:
            turned = turned / torch.hypot(torch.linalg.vector_norm(turned, dim=-1, keepdim=True), self.least) * self.scale
        if angle is not None:
            (cos, sin), (left, right) = angle, turned.chunk(2, dim=-1)
            turned = torch.addcmul(turned * cos, torch.cat([right, left], dim=-1), sin)
        query, key = turned.split((heads, groups), dim=1)
        keys, values = kept.append(key.unsqueeze(2), value.unsqueeze(2))  # (B, G, S, D)
        if seen is None:
            queries = query.reshape(rows * groups, -1, width)  # those that share a key side by side, (B G, H / G, D)
            scores = torch.bmm(queries, keys.flatten(0, 1).mT)  # (B G, H / G, S)
            y = torch.bmm(scores.softmax(-1), values.flatten(0, 1))
        else:
            queries = query.reshape(rows, groups, -1, width)
            y = F.scaled_dot_product_attention(queries, keys, values, seen, scale=1.0)
        x = self.output.added_to(x, y.reshape(rows, -1))
        hidden = self.widen(x)
        if self.gated:
            gate, up = hidden.chunk(2, dim=-1)
            return self.narrow.added_to(x, self.act(gate) * up)
        return self.narrow.added_to(x, self.act(hidden))


class Fused:
    """A decoder of pre-norm blocks with joined matrices, for inference. A prompt passes through the model itself."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.plain = model, plain(model)
        self.blocks = [FusedBlock(block) for block in model.blocks]
        self.logits = Product(getattr(model, "output", None) or model.token_embedding, norm=model.norm)
        self.positions = model.position_embedding.weight if hasattr(model, "position_embedding") else None
        rotary = getattr(model.blocks[0].attention, "rotary", None)
        self.angles = None  # cos and sin of each position, (positions, D): x turned is x cos + (its halves exchanged) sin
        if rotary is not None:
            self.angles = torch.cat([rotary.cos, rotary.cos], dim=-1), torch.cat([-rotary.sin, rotary.sin], dim=-1)

    def __call__(self, tokens: Tensor, padding_mask: Tensor | None, cache: list[KeyValueCache]) -> Tensor:
        """Return the logits (B, V) after tokens (B, T)."""
        start = cache[0].length
        if tokens.shape[1] > 1 or start == 0:
            return self.plain(tokens, padding_mask, cache)
        if self.positions is None or padding_mask is None:
            x = F.embedding(tokens[:, 0], self.model.token_embedding.weight)  # (B, C)
            x = x if self.positions is None else x + self.positions[start]
        else:  # a row's positions begin after its padding
            x = self.model.before_blocks(tokens, padding_mask, start)[:, 0]
        seen = None if padding_mask is None else ~padding_mask[:, None, None]  # (B, 1, 1, S)
        angle = None if self.angles is None else (self.angles[0][start], self.angles[1][start])
        for block, kept in zip(self.blocks, cache):
            x = block(x, kept, seen, angle)
        return self.logits(x)
