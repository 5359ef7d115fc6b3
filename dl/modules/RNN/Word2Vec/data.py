"""Words and those around them: windows, rare words kept, negative words drawn.

Each batch is drawn from (seed, epoch, batch) alone, so a run resumes exactly.
"""

import re
from typing import Literal

import torch
from torch import Tensor

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Batch, Loader, Splits, Vocabulary
from dl.mytorch.data.loader import Transform
from dl.mytorch.data.text.shakespeare import SOURCES, load
from dl.mytorch.data.text.vocabulary import UNKNOWN
from dl.mytorch.data.text.wikitext2 import words as wikitext2_words

Objective = Literal["skipgram", "cbow"]


def texts(name: str) -> list[list[str]]:
    """Return words in lower case, marks left out: a training, a validation and a test text.

    Raises `UserError` for another name.
    """
    if name == "wikitext2":
        return [[word.lower() for word in wikitext2_words(split) if word[0].isalpha()] for split in ("train", "valid", "test")]
    if name not in SOURCES:
        raise UserError(f"--data {name}: there are wikitext2, {', '.join(SOURCES)}")
    words = re.findall(r"[a-z]+(?:'[a-z]+)*", load(name).lower())
    cuts = (0, int(0.9 * len(words)), int(0.95 * len(words)), len(words))
    return [words[start:end] for start, end in zip(cuts, cuts[1:])]


def keep_rare(ids: Tensor, counts: Tensor, threshold: float, generator: torch.Generator) -> Tensor:
    """Return the text (T,) without some of its frequent words: a word of frequency f is kept with chance sqrt(threshold / f).

    2013b, section 2.3. `counts` (V,) are those of the training text. A threshold of 0 keeps all.
    """
    if not threshold:
        return ids
    kept = (threshold / (counts / counts.sum()).clamp(min=1e-12)).sqrt()[ids]
    return ids[torch.rand(len(ids), generator=generator) < kept]


def draw(ids: Tensor, counts: Tensor, window: int, negatives: int, objective: Objective) -> Transform:
    """Return a function that makes examples of places in the text `ids` (T,).

    Each place has its own reach, 1 to `window` words to either side, drawn each time (2013a, section 3.2). Skip-gram makes
    an example of each word within reach, CBOW one of all. "inputs" (B, C), "padding" (B, C) where there is none, and
    "candidates" (B, 1 + negatives): the word itself, then words drawn by their counts to the power of 3/4 (2013b, section 2.2).
    """
    chances = counts.double().pow(0.75)
    steps = torch.cat([torch.arange(-window, 0), torch.arange(1, window + 1)])  # (2 W,)

    def transform(batch: Batch, generator: torch.Generator) -> Batch:
        places = batch["place"][:, None]  # (N, 1)
        reach = torch.randint(1, window + 1, places.shape, generator=generator)
        around = places + steps  # (N, 2 W)
        padding = (steps.abs() > reach) | (around < 0) | (around >= len(ids))
        inputs, targets = ids[around.clamp(0, len(ids) - 1)], ids[places]
        if objective == "skipgram":
            inputs, targets = inputs[~padding][:, None], targets.expand_as(around)[~padding][:, None]  # (B, 1)
            padding = torch.zeros_like(inputs, dtype=torch.bool)
        drawn = targets[:0]  # all that a rank without an example of this batch needs
        if len(targets):
            drawn = torch.multinomial(chances, len(targets) * negatives, replacement=True, generator=generator)
        candidates = torch.cat([targets, drawn.view(len(targets), negatives)], dim=1)
        return {"inputs": inputs, "candidates": candidates, "padding": padding}

    return transform


def window_splits(
    config: TrainConfig, objective: Objective, window: int, negatives: int, min_count: int, threshold: float
) -> Splits:
    """Return the text that `config.data` names as batches of `draw`, `config.batch_size` places each.

    Words that are rarer than `min_count` in the training text are left out, and so, once and for all, are some of the frequent
    ones, in training only. Raises `UserError` for a part that keeps fewer than two words.
    """
    parts = texts(config.data)
    vocabulary = Vocabulary.build(parts[0], (), min_count)
    known = [[word for word in part if word in vocabulary and word != UNKNOWN] for part in parts]
    encoded = [torch.tensor(vocabulary.encode(part), dtype=torch.int64) for part in known]
    counts = torch.bincount(encoded[0], minlength=len(vocabulary))
    encoded[0] = keep_rare(encoded[0], counts, threshold, torch.Generator().manual_seed(config.seed))
    for part, ids in zip(("training", "validation", "test"), encoded):
        if len(ids) < 2:
            raise UserError(f"the {part} text keeps {len(ids)} words: too few; --min-count and --threshold choose them")
    loaders = []
    for ids in encoded:
        examples = {"place": torch.arange(len(ids))}
        options = {"shuffle": not loaders, "seed": config.seed, "transform": draw(ids, counts, window, negatives, objective)}
        loaders.append(Loader(examples, config.batch_size, **options))
    return Splits(*loaders, vocabularies={"tokens": vocabulary})
