"""Speculative decoding: a small model drafts some tokens, the large one checks them all at once.

"Fast Inference from Transformers via Speculative Decoding", Yaniv Leviathan, Matan Kalman & Yossi Matias, 2022,
https://arxiv.org/abs/2211.17192, algorithm 1. What is written is distributed exactly as what the large model writes alone;
at temperature 0 it is the same text.
"""

from typing import Iterator

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.text.generation import Sampler, check_prompt


@torch.inference_mode()
def speculate(
    model: nn.Module,
    draft: nn.Module,
    tokens: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
    *,
    num_draft_tokens: int = 4,
) -> Iterator[Tensor]:
    """Yield the next tokens of one prompt (1, T), each (1,), some at a time. Both models are put into evaluation mode.

    Each is chosen by the context that `stream` has there, however long that of the draft is.

    Args:
        draft: a faster model of the same tokens.
        num_draft_tokens: what it drafts at a time.
        temperature, top_k, top_p: see `Sampler`; of both models.

    Raises `UserError` for models of different vocabularies, several prompts, and what `stream` refuses.
    """
    sampler = Sampler(temperature, top_k, top_p)
    check_prompt(model, tokens, None, max_new_tokens)
    if len(tokens) != 1 or num_draft_tokens < 1:
        raise UserError(f"one prompt and one drafted token at least; got {len(tokens)} and {num_draft_tokens}")
    if model.token_embedding.num_embeddings != draft.token_embedding.num_embeddings:
        raise UserError("the two models have vocabularies of different sizes")
    if not all(getattr(cache, "can_be_cut", True) for each in (model, draft) for cache in each.new_cache()):
        raise UserError("a model whose cache is a state cannot forget what was drafted wrong: no speculative decoding")
    generator = None if seed is None else torch.Generator(tokens.device).manual_seed(seed)
    contexts = target, drafting = _Context(model), _Context(draft)
    end = tokens.shape[1] + max_new_tokens
    while (length := tokens.shape[1]) < end:
        text, drafted = tokens, []
        for _ in range(min(num_draft_tokens, end - length - 1, *(context.room(length) for context in contexts))):
            drafted.append(_probabilities(sampler, drafting.logits(text)[:, -1]))
            text = torch.cat([text, torch.multinomial(drafted[-1], 1, generator=generator)], dim=1)
        probabilities = _probabilities(sampler, target.logits(text)[0, -len(drafted) - 1 :])  # (K + 1, V) for K drafted
        new = verify(text[0, length:], torch.cat([*drafted, probabilities[:0]]), probabilities, generator)
        tokens = torch.cat([tokens, new[None]], dim=1)
        for context in contexts:  # what was drafted wrong is forgotten
            context.cut(tokens.shape[1] - 1)
        yield from new.split(1)


class _Context:
    """A model with its cache, and the column of the text at which its context begins: as in `stream`."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.cache, self.first = model.eval(), model.new_cache(), 0

    def room(self, length: int) -> int:
        """Return how many more than `length` tokens the model sees at once; where it has outgrown that, its context is new."""
        if length - self.first > self.model.max_length:
            self.first, self.cache = length - max(1, self.model.max_length // 2), self.model.new_cache()
        return int(self.model.max_length - (length - self.first))

    def logits(self, text: Tensor) -> Tensor:
        """Return logits (1, T', V) after the last T' tokens of `text` (1, T), those that the cache does not have."""
        return self.model(text[:, self.first + self.cache[0].length :], None, self.cache)

    def cut(self, length: int) -> None:
        """Forget what the cache has beyond `length` tokens of the text."""
        for each in self.cache:
            each.length = min(each.length, length - self.first)


def verify(tokens: Tensor, drafted: Tensor, probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the drafted tokens (K,) up to the first that is refused, and one of the large model's: between 1 and K + 1 tokens.

    A token is kept with probability p / q, at most 1: `drafted` (K, V) has the q, `probabilities` (K + 1, V) the p. In place
    of one that is refused comes a token drawn from p - q where that is positive, section 2.3.
    """
    chances = torch.rand(len(tokens), generator=generator, device=tokens.device)
    for i, token in enumerate(tokens):
        if chances[i] * drafted[i, token] >= probabilities[i, token]:
            rest = (probabilities[i] - drafted[i]).clamp(min=0)
            rest = rest if rest.any() else probabilities[i]  # two that are equal but for rounding
            return torch.cat([tokens[:i], torch.multinomial(rest, 1, generator=generator)])
    return torch.cat([tokens, torch.multinomial(probabilities[-1], 1, generator=generator)])


def _probabilities(sampler: Sampler, logits: Tensor) -> Tensor:
    """(N, V); at temperature 0 all of it on the likeliest token."""
    scores = sampler.scores(logits)
    if sampler.temperature == 0:
        return torch.zeros_like(scores).scatter(1, scores.argmax(1, keepdim=True), 1.0)
    return scores.softmax(-1)
