"""How likely a language model finds a text, and which of several answers it finds likeliest.

Figures of models with different tokens compare only per byte, per character or per word of the text, never per token.
A model here is called as in `dl.mytorch.text.generation`.
"""

import math
from typing import NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.config import UserError
from dl.mytorch.data.sequences import IGNORED, blocks, pad
from dl.mytorch.data.text.vocabulary import Vocabulary
from dl.mytorch.float64 import with_float64
from dl.mytorch.text.generation import Tokens, separator, split

# B batch, T tokens, V vocabulary

AT_ONCE = 2048  # tokens whose logits are in memory at a time


class Likelihood(NamedTuple):
    """The negative log-probability of a text in nats, and how long the text is."""

    nats: float
    num_bytes: int  # in UTF-8
    num_words: int  # between white space
    num_lines: int  # ends of lines

    @classmethod
    def of(cls, text: str, nats: float) -> "Likelihood":
        return cls(nats, len(text.encode()), len(text.split()), text.count("\n"))

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.num_bytes

    def word_perplexity(self, lines_count: bool = False) -> float:
        """Return exp(nats per word); with `lines_count` a line's end is a word, as in published perplexities of WikiText."""
        words = self.num_words + lines_count * self.num_lines
        return torch.tensor(self.nats / words, dtype=torch.float64).exp().item()  # math.exp fails on large ones


# ---- texts to ids --------------------------------------------------------------------------------------------------


def plain(tokens: Tokens, text: str) -> str:
    """Return the text as `tokens` can tell it: words have one blank between them, whatever white space was there."""
    if isinstance(tokens, Vocabulary) and separator(tokens):
        return "\n".join(" ".join(line.split()) for line in text.split("\n"))
    return text


def encode(tokens: Tokens, text: str) -> list[int]:
    """Return the ids of a text. Raises `UserError` for a character or word that is no token, which would be free as "<unk>"."""
    if not isinstance(tokens, Vocabulary):
        return tokens.encode(text)
    parts = split(tokens, text)
    if unknown := [part for part in parts if part not in tokens]:
        raise UserError(f"{unknown[0]!r} is no token of the model: a text with it has no probability")
    return tokens.encode(parts)


def start(tokens: Tokens) -> list[int]:
    """Return what a text without a context is read after, one id: the end of a line, or 0 where that is no token."""
    if isinstance(tokens, Vocabulary) and not all(part in tokens for part in split(tokens, "\n")):
        return [0]
    return encode(tokens, "\n")[-1:] or [0]


def encode_pair(tokens: Tokens, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the ids of a context, `start` if it is empty, and of what follows it.

    Both are encoded together, and cut where the context alone ends: the tokens are those of the whole text. Raises
    `UserError` where the continuation has no token of its own.
    """
    before, both = encode(tokens, context), encode(tokens, context + continuation)
    if len(both) <= len(before):
        raise UserError(f"{continuation!r} has no token after its context")
    return both[: len(before)] or start(tokens), both[len(before) :]


# ---- log-probabilities ---------------------------------------------------------------------------------------------


@torch.inference_mode()
def log_probs(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probabilities of the targets (B, T) after the tokens (B, T), float64; 0 for one that is `IGNORED`.

    The model is put into evaluation mode. It reads `AT_ONCE` tokens at a time, and keeps the others in its cache.
    """
    model.eval()
    cache, device, found = model.new_cache(), next(model.parameters()).device, []
    width = max(1, AT_ONCE // len(tokens))
    for part, wanted in zip(tokens.to(device).split(width, 1), targets.to(device).split(width, 1)):
        logits = model(part, None, cache).flatten(0, 1)  # (B, T, V) -> (B T, V)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(logits, wanted.flatten(), ignore_index=IGNORED, reduction="none")
        found.append(-with_float64(loss).double().view(wanted.shape))
    return torch.cat(found, dim=1).cpu()


def text_log_probs(model: nn.Module, ids: Sequence[int], stride: int) -> Tensor:
    """Return the log-probability (T - 1,) of each of `ids` (T,) but the first, given those before it.

    A text of more than `max_length` tokens is read in windows of so many, each `stride` further than the one before: every
    token is predicted once, after at least `max_length - stride` others, but those at the beginning of the text.
    """
    length = min(model.max_length, len(ids) - 1)
    windows = blocks(torch.tensor(ids), length, context=max(0, length - stride))
    count = max(1, AT_ONCE // length)
    pairs = zip(windows["tokens"].split(count), windows["targets"].split(count))
    return torch.cat([log_probs(model, *pair)[pair[1] != IGNORED] for pair in pairs])


def continuation_log_probs(model: nn.Module, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Return the log-probability of each continuation after its context, as ids; of a long context the last tokens count.

    Raises `UserError` for a continuation of more than `max_length` tokens.
    """
    longest = max(len(new) for _, new in pairs)
    if longest > model.max_length:
        raise UserError(f"a choice of {longest} tokens is longer than the {model.max_length} that the model can see")
    rows = [torch.tensor([*context, *new][-model.max_length - 1 :]) for context, new in pairs]
    targets = [row[1:].clone() for row in rows]
    for row, (_, new) in zip(targets, pairs):
        row[: -len(new)] = IGNORED
    # Padding at the end changes nothing: no token sees those after it.
    return log_probs(model, pad([row[:-1] for row in rows], 0), pad(targets, IGNORED)).sum(1).tolist()


# ---- choices -------------------------------------------------------------------------------------------------------


def choice_pair(context: str, choice: str, delimiter: str = " ") -> tuple[str, str]:
    """Return the context and what is scored after it, the delimiter and the choice.

    White space at the end of the context belongs to what follows, where most tokenizers have it.
    """
    bare = context.rstrip()
    return bare, context[len(bare) :] + delimiter + choice


def likeliest(log_probs: Sequence[float], choices: Sequence[str]) -> dict[str, int]:
    """Return the place of the likeliest choice by three rules, of https://github.com/EleutherAI/lm-evaluation-harness.

    "acc" by the log-probability, which favours short ones; "acc_norm" by that of a character of the choice, without what
    stands between it and its context; "acc_bytes" by that of a byte. The first of equals.
    """
    sizes = {
        "acc": [1] * len(choices),
        "acc_norm": [len(choice) for choice in choices],
        "acc_bytes": [len(choice.encode()) for choice in choices],
    }
    return {rule: max(range(len(choices)), key=lambda i: log_probs[i] / size[i]) for rule, size in sizes.items()}
