"""Speculative decoding: a small model guesses some tokens, the large one checks them all at once.

"Fast Inference from Transformers via Speculative Decoding", Yaniv Leviathan, Matan Kalman & Yossi Matias, 2022,
https://arxiv.org/abs/2211.17192, algorithm 1. What is written is distributed exactly as what the large model writes alone;
at temperature 0 it is the same text.
"""

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.text.generation import Sampler, check_prompt


@torch.inference_mode()
def speculate(
    model: nn.Module,
    draft: nn.Module,
    tokens: Tensor,
    *,
    max_new_tokens: int,
    ahead: int = 4,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int | None = None,
) -> Tensor:
    """One prompt (1, T) with what follows, (1, T + max_new_tokens). Both models are put into evaluation mode.

    Args:
        draft: a faster model of the same tokens.
        ahead: tokens that it guesses at a time.
        temperature, top_k, top_p: see `Sampler`; of both models.

    Raises `ValueError` for models of different vocabularies, several prompts, `ahead` below 1, and a text that would be
    longer than either model can see.
    """
    sampler = Sampler(temperature, top_k, top_p)
    for each in (model, draft):
        check_prompt(each, tokens, None, max_new_tokens)
        each.eval()
    longest = min(model.max_length, draft.max_length)
    if len(tokens) != 1 or ahead < 1:
        raise ValueError(f"one prompt and one guess ahead at least; got {len(tokens)} and {ahead}")
    if model.token_embedding.num_embeddings != draft.token_embedding.num_embeddings:
        raise ValueError("the two models have vocabularies of different sizes")
    if tokens.shape[1] + max_new_tokens > longest:
        raise UserError(f"{tokens.shape[1]} + {max_new_tokens} tokens are more than the {longest} that both models can see")
    generator = None if seed is None else torch.Generator(tokens.device).manual_seed(seed)
    cache, draft_cache = model.new_cache(), draft.new_cache()
    end = tokens.shape[1] + max_new_tokens
    while (length := tokens.shape[1]) < end:
        text, guessed = tokens, []
        for _ in range(min(ahead, end - length - 1)):
            guessed.append(_probabilities(sampler, draft(text[:, draft_cache[0].length :], None, draft_cache)[:, -1]))
            text = torch.cat([text, torch.multinomial(guessed[-1], 1, generator=generator)], dim=1)
        logits = model(text[:, cache[0].length :], None, cache)[0, -len(guessed) - 1 :]  # (K + 1, V) for K guesses
        checked = _probabilities(sampler, logits)
        guesses = torch.cat(guessed) if guessed else checked[:0]
        new = verify(text[0, length:], guesses, checked, generator)
        tokens = torch.cat([tokens, new[None]], dim=1)
        for each in (*cache, *draft_cache):  # what was guessed wrong is forgotten
            each.length = min(each.length, tokens.shape[1] - 1)
    return tokens


def verify(tokens: Tensor, guessed: Tensor, checked: Tensor, generator: torch.Generator | None) -> Tensor:
    """The guesses (K,) up to the first that is refused, and one token of the large model's: between 1 and K + 1 tokens.

    A guess is kept with probability p / q, at most 1: `guessed` (K, V) has the q, `checked` (K + 1, V) the p. In place of
    one that is refused comes a token drawn from p - q where that is positive, section 2.3.
    """
    chances = torch.rand(len(tokens), generator=generator, device=tokens.device)
    for i, token in enumerate(tokens):
        if chances[i] * guessed[i, token] >= checked[i, token]:
            rest = (checked[i] - guessed[i]).clamp(min=0)
            rest = rest if rest.any() else checked[i]  # two that are equal but for rounding
            return torch.cat([tokens[:i], torch.multinomial(rest, 1, generator=generator)])
    return torch.cat([tokens, torch.multinomial(checked[-1], 1, generator=generator)])


def _probabilities(sampler: Sampler, logits: Tensor) -> Tensor:
    """(N, V); at temperature 0 all of it on the likeliest token."""
    scores = sampler.scores(logits)
    if sampler.temperature == 0:
        return torch.zeros_like(scores).scatter(1, scores.argmax(1, keepdim=True), 1.0)
    return scores.softmax(-1)
