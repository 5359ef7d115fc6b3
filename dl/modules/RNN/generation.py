"""From a state to text: a recurrent model reads its prompt once, then one token at a time."""

import torch
from torch import Tensor, nn

from dl.mytorch.data import Vocabulary
from dl.mytorch.text.generation import Sampler


@torch.no_grad()
def generate(
    model: nn.Module, tokens: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int = 0, seed: int | None = None
) -> Tensor:
    """The prompts with what follows: tokens (B, T) -> (B, T + max_new_tokens). The model is in evaluation mode.

    Raises `ValueError` for options that cannot be meant.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens has to be 0 or more; got {max_new_tokens}")
    sampler = Sampler(temperature, top_k)
    generator = None if seed is None else torch.Generator(tokens.device).manual_seed(seed)
    new, state = tokens, None
    for _ in range(max_new_tokens):
        scores, state, *_ = model(new, state)
        new = sampler.choose(scores[:, -1], None, generator)[:, None]  # (B, 1)
        tokens = torch.cat([tokens, new], dim=1)
    return tokens


def separator(vocabulary: Vocabulary) -> str:
    """What stands between two tokens: a blank between words, nothing between characters."""
    return " " if max(map(len, vocabulary.tokens)) > 1 else ""


def to_text(vocabulary: Vocabulary, ids: list[int]) -> str:
    """The text of ids."""
    return separator(vocabulary).join(vocabulary.decode(ids))
