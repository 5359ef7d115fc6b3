"""From logits to sentences: greedy search and beam search.

Both take `source` (B, S), sentences of different lengths filled up with `padding`, and return a list of tokens for each,
without `bos_id` and `eos_id`. A sentence ends at `eos_id`, or when it has as many tokens as its source and
`max_extra_tokens` more (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, section 6.1), or as many as the model has
positions. The model is in evaluation mode.

The cache makes a step cost as much as its one new position; without, all positions are computed again in each step.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from dl.mytorch.config import UserError

MOST_BEAMS = 1000  # each takes the memory of a sentence of the batch

# B batch, S source tokens, T target tokens so far, V vocabulary, K hypotheses of a beam


class Cache(Protocol):
    """What a decoder remembers of the target positions so far."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch."""


class Translator(Protocol):
    """What a model offers to the searches."""

    max_length: int

    def encode(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """source (B, S), padding_mask (B, S) -> memory, a row for each sentence."""
        ...

    def decode(self, target: Tensor, memory: Tensor, memory_padding_mask: Tensor, cache: Any) -> Tensor:
        """target (B, T), with a cache only the tokens that follow the calls before -> logits (B, T, V)."""
        ...

    def new_cache(self, source_length: int, target_length: int) -> Cache:
        """Empty, for `decode` to fill."""
        ...


@torch.no_grad()
def greedy_search(
    model: Translator,
    source: Tensor,
    *,
    bos_id: int,
    eos_id: int,
    padding: int = 0,
    max_extra_tokens: int = 50,
    cached: bool = True,
) -> list[list[int]]:
    """Return the likeliest token at each step."""
    mask = source == padding
    memory = model.encode(source, mask)
    cache = model.new_cache(source.shape[1], model.max_length) if cached else None
    max_new_tokens = _max_new_tokens(model, mask, max_extra_tokens)  # (B,)
    target = source.new_full((len(source), 1), bos_id)  # (B, 1), grows to (B, T)
    finished = torch.zeros_like(max_new_tokens, dtype=torch.bool)
    while not finished.all():
        logits = model.decode(target[:, -1:] if cached else target, memory, mask, cache)[:, -1]  # (B, V)
        token = logits.argmax(-1).masked_fill(finished, eos_id)
        target = torch.cat([target, token[:, None]], dim=1)
        finished |= (token == eos_id) | (target.shape[1] - 1 == max_new_tokens)
    return _sentences(target, eos_id)


@torch.no_grad()
def beam_search(
    model: Translator,
    source: Tensor,
    *,
    bos_id: int,
    eos_id: int,
    padding: int = 0,
    max_extra_tokens: int = 50,
    num_beams: int = 4,
    length_penalty: float = 0.6,
    cached: bool = True,
) -> list[list[int]]:
    """Return the hypothesis of the highest score that a beam finds: log P(y | x) / ((5 + |y|) / 6)^alpha, with `eos_id` in |y|.

    At each step every hypothesis of the beam is extended by every token, one that has ended stays as it is, and the
    `num_beams` best of all these are kept. alpha is `length_penalty`, as in Wu et al. 2016,
    https://arxiv.org/abs/1609.08144, equation 14. With one beam this is `greedy_search`. Raises `ValueError` for `num_beams`
    outside 1 to 1,000 and `length_penalty` outside 0 to 5.
    """
    _check_beams(num_beams, length_penalty)
    mask = source == padding
    max_new_tokens = _max_new_tokens(model, mask, max_extra_tokens)[:, None]  # (B, 1)
    memory = model.encode(source, mask).repeat_interleave(num_beams, 0)  # (B, S, C) -> (B K, S, C)
    mask = mask.repeat_interleave(num_beams, 0)
    cache = model.new_cache(source.shape[1], model.max_length) if cached else None
    target = source.new_full((len(memory), 1), bos_id)  # (B K, 1), grows to (B K, T)
    log_probability = torch.full((len(source), num_beams), -torch.inf, device=source.device)  # (B, K)
    log_probability[:, 0] = 0  # the hypotheses differ from the second token on
    length = torch.zeros_like(log_probability)
    finished = torch.zeros_like(log_probability, dtype=torch.bool)
    first_row = num_beams * torch.arange(len(source), device=source.device)[:, None]  # of each sentence's hypotheses
    while not finished.all():
        logits = model.decode(target[:, -1:] if cached else target, memory, mask, cache)[:, -1]
        steps = logits.float().log_softmax(-1).unflatten(0, (-1, num_beams))  # (B K, V) -> (B, K, V)
        ended = torch.full_like(steps[0, 0], -torch.inf)
        ended[eos_id] = 0  # a sentence that has ended is extended by `eos_id`, at no cost
        total = log_probability[..., None] + torch.where(finished[..., None], ended, steps)  # (B, K, V)
        length += ~finished
        score = total / ((5 + length) / 6)[..., None] ** length_penalty
        best = score.flatten(1).topk(num_beams).indices  # (B, K V) -> (B, K)
        parent, token = best // score.shape[-1], best % score.shape[-1]
        log_probability = total.flatten(1).gather(1, best)
        length, finished = length.gather(1, parent), finished.gather(1, parent)
        finished |= (token == eos_id) | (length == max_new_tokens)
        rows = (first_row + parent).flatten()
        target = torch.cat([target[rows], token.view(-1, 1)], dim=1)
        if cache is not None:
            cache.select(rows)
    winner = first_row[:, 0] + (log_probability / ((5 + length) / 6) ** length_penalty).argmax(1)
    return _sentences(target[winner], eos_id)


def _check_beams(num_beams: int, length_penalty: float) -> None:
    if not 1 <= num_beams <= MOST_BEAMS:
        raise UserError(f"a beam holds 1 to {MOST_BEAMS:,} hypotheses; got {num_beams}")
    if not 0 <= length_penalty <= 5:  # larger ones, to which all scores are 0, choose nothing
        raise UserError(f"length_penalty has to be from 0 to 5; got {length_penalty}")


def _max_new_tokens(model: Translator, mask: Tensor, max_extra_tokens: int) -> Tensor:
    """Return how many tokens each translation may have, `eos_id` among them: (B,). Raises `ValueError` below 0 extra."""
    if max_extra_tokens < 0:
        raise ValueError(f"max_extra_tokens has to be 0 or more; got {max_extra_tokens}")
    return ((~mask).sum(1) + min(max_extra_tokens, model.max_length)).clamp(max=model.max_length)


def _sentences(target: Tensor, eos_id: int) -> list[list[int]]:
    """Return rows (B, T) without their first token and from the first `eos_id` on."""
    return [row[: row.index(eos_id)] if eos_id in row else row for row in target[:, 1:].tolist()]
