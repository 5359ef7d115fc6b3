"""Pairs of right and wrong sums, drawn from the model that is to be tuned."""

import torch
from torch import Tensor, nn

from dl.modules.Alignment.DPO.pairs import Pair
from dl.modules.Alignment.sampling import sample, uniform
from dl.modules.Alignment.sums import TOKENS, Sums

CHUNK = 256  # prompts that are answered at once

# N prompts, G answers to each, A tokens of an answer


def drawn_pairs(model: nn.Module, sums: Sums, seed: int, samples: int, prompts: int, most: int) -> list[Pair]:
    """Return pairs of all parts, from `samples` answers to each prompt, drawn at temperature 1.

    Training: `most` pairs at most for each of `prompts` prompts, chosen by `seed`: a right answer, which was drawn, and one of
    the wrong ones, each once. A prompt whose answers are all right, or all wrong, has none. Held out: one pair for each
    prompt, the right answer and the first wrong one, or if there is none the right one with another first digit.
    """
    order = torch.randperm(len(sums.pairs("train")), generator=torch.Generator().manual_seed(seed))[:prompts]
    found = []
    for place, part in enumerate(("train", "val", "test")):
        numbers = sums.pairs(part)
        rows = order if part == "train" else torch.arange(len(numbers))
        for chunk in rows.split(CHUNK):
            answers = draw(model, sums, numbers[chunk], chunk, (seed, place), samples)
            texts = (_texts(tokens) for tokens in (sums.prompts(numbers[chunk]), sums.answers(numbers[chunk])))
            for prompt, right, given in zip(*texts, map(_texts, answers)):
                found += _pairs(prompt, right, given, part, most)
    return found


def draw(model: nn.Module, sums: Sums, pairs: Tensor, ids: Tensor, seeds: tuple[int, ...], samples: int) -> Tensor:
    """Return answers (N, G, A) to prompts; the noise of one depends on `seeds`, the prompt's id (N,) and the sample alone."""
    places = torch.arange(samples)[:, None], torch.arange(sums.answer_length)
    device = next(model.parameters()).device
    noise = uniform(*seeds, ids[:, None, None], *places)
    return sample(model.eval(), sums.prompts(pairs).to(device), noise)[0].cpu()


def _pairs(prompt: str, right: str, given: list[str], part: str, most: int) -> list[Pair]:
    """Return the pairs of one prompt, of its right answer and those `given`."""
    wrong = [answer for answer in dict.fromkeys(given) if answer != right]  # each once, in the order of their samples
    if part == "train":
        return [Pair(prompt, right, answer, part) for answer in wrong[:most] if right in given]
    changed = f"{(int(right[0]) + 1) % 10}{right[1:]}"
    return [Pair(prompt, right, [*wrong, changed][0], part)]


def _texts(tokens: Tensor) -> list[str]:
    """tokens (N, T) -> N texts, each up to its first end mark."""
    texts = ["".join(TOKENS.tokens[i] for i in row) for row in tokens.tolist()]
    return [text[: text.find(".") + 1 or None] for text in texts]
