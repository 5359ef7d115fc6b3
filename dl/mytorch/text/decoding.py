"""From logits to sentences: greedy search and beam search.

Both take `source` (B, S), sentences of different lengths filled up with `padding`, and give a list of tokens for each,
without `begin` and `end`. A sentence ends at `end`, or when it has as many tokens as its source and `extra` more (Vaswani
et al. 2017, https://arxiv.org/abs/1706.03762, section 6.1), or as many as the model has positions. The model is in
evaluation mode.

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
        """Go on with these rows of the batch."""


class Translator(Protocol):
    """What a model offers to the searches."""

    max_length: int

    def encode(self, source: Tensor, padding_mask: Tensor) -> Tensor:
        """source (B, S), padding_mask (B, S) -> memory, a row for each sentence."""

    def decode(self, target: Tensor, memory: Tensor, memory_padding_mask: Tensor, cache: Any) -> Tensor:
        """target (B, T), with a cache only the tokens that follow the calls before -> logits (B, T, V)."""

    def new_cache(self, source_length: int, target_length: int) -> Cache:
        """Empty, for `decode` to fill."""


@torch.no_grad()
def greedy_search(
    model: Translator, source: Tensor, *, begin: int, end: int, padding: int = 0, extra: int = 50, cached: bool = True
) -> list[list[int]]:
    """The likeliest token at each step."""
    mask = source == padding
    memory = model.encode(source, mask)
    cache = model.new_cache(source.shape[1], model.max_length) if cached else None
    most = _most_tokens(model, mask, extra)  # (B,)
    target = source.new_full((len(source), 1), begin)  # (B, 1), grows to (B, T)
    done = torch.zeros_like(most, dtype=torch.bool)
    while not done.all():
        logits = model.decode(target[:, -1:] if cached else target, memory, mask, cache)[:, -1]  # (B, V)
        token = logits.argmax(-1).masked_fill(done, end)
        target = torch.cat([target, token[:, None]], dim=1)
        done |= (token == end) | (target.shape[1] - 1 == most)
    return _sentences(target, end)


@torch.no_grad()
def beam_search(
    model: Translator,
    source: Tensor,
    *,
    begin: int,
    end: int,
    padding: int = 0,
    extra: int = 50,
    beams: int = 4,
    alpha: float = 0.6,
    cached: bool = True,
) -> list[list[int]]:
    """The hypothesis of the highest score that a beam finds: log P(y | x) / ((5 + |y|) / 6)^alpha, with `end` in |y|.

    At each step every hypothesis of the beam goes on with every token, one that has ended stays as it is, and the `beams`
    best of all these are kept. The length penalty is that of Wu et al. 2016, https://arxiv.org/abs/1609.08144, equation
    14. With one beam this is `greedy_search`. Raises `ValueError` for `beams` outside 1 to 1,000 and `alpha` outside 0 to 5.
    """
    _check_beams(beams, alpha)
    mask = source == padding
    most = _most_tokens(model, mask, extra)[:, None]  # (B, 1)
    memory = model.encode(source, mask).repeat_interleave(beams, 0)  # (B, S, C) -> (B K, S, C)
    mask = mask.repeat_interleave(beams, 0)
    cache = model.new_cache(source.shape[1], model.max_length) if cached else None
    target = source.new_full((len(memory), 1), begin)  # (B K, 1), grows to (B K, T)
    log_probability = torch.full((len(source), beams), -torch.inf, device=source.device)  # (B, K)
    log_probability[:, 0] = 0  # the hypotheses differ from the second token on
    length = torch.zeros_like(log_probability)
    done = torch.zeros_like(log_probability, dtype=torch.bool)
    first = beams * torch.arange(len(source), device=source.device)[:, None]  # row of each sentence's first hypothesis
    while not done.all():
        logits = model.decode(target[:, -1:] if cached else target, memory, mask, cache)[:, -1]
        steps = logits.float().log_softmax(-1).unflatten(0, (-1, beams))  # (B K, V) -> (B, K, V)
        ended = torch.full_like(steps[0, 0], -torch.inf)
        ended[end] = 0  # a sentence that has ended goes on with `end`, at no cost
        total = log_probability[..., None] + torch.where(done[..., None], ended, steps)  # (B, K, V)
        length += ~done
        score = total / ((5 + length) / 6)[..., None] ** alpha
        best = score.flatten(1).topk(beams).indices  # (B, K V) -> (B, K)
        parent, token = best // score.shape[-1], best % score.shape[-1]
        log_probability = total.flatten(1).gather(1, best)
        length, done = length.gather(1, parent), done.gather(1, parent)
        done |= (token == end) | (length == most)
        rows = (first + parent).flatten()
        target = torch.cat([target[rows], token.view(-1, 1)], dim=1)
        if cache is not None:
            cache.select(rows)
    winner = first[:, 0] + (log_probability / ((5 + length) / 6) ** alpha).argmax(1)
    return _sentences(target[winner], end)


def _check_beams(beams: int, alpha: float) -> None:
    if not 1 <= beams <= MOST_BEAMS:
        raise UserError(f"a beam holds 1 to {MOST_BEAMS:,} hypotheses; got {beams}")
    if not 0 <= alpha <= 5:  # larger ones, to which all scores are 0, choose nothing
        raise UserError(f"alpha, the power of the length penalty, has to be from 0 to 5; got {alpha}")


def _most_tokens(model: Translator, mask: Tensor, extra: int) -> Tensor:
    """How many tokens each translation may have, `end` among them: (B,). Raises `ValueError` for a negative `extra`."""
    if extra < 0:
        raise ValueError(f"extra tokens have to be 0 or more; got {extra}")
    return ((~mask).sum(1) + min(extra, model.max_length)).clamp(max=model.max_length)


def _sentences(target: Tensor, end: int) -> list[list[int]]:
    """Rows (B, T) without their first token and from the first `end` on."""
    return [row[: row.index(end)] if end in row else row for row in target[:, 1:].tolist()]
