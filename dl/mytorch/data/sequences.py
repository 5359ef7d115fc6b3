"""Ids of tokens as batches: long texts cut for language models, rows of different lengths padded."""

from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.config import UserError
from dl.mytorch.data.loader import Batch

IGNORED = -100  # a target that is none: no loss, no error


def windows(ids: Tensor, length: int) -> Batch:
    """Every chunk of `length` ids as an example, for training: "tokens" (N, length) and "targets", the same one id later.

    Views of `ids` (T,): no memory is taken, so `ids` may be a file mapped into memory. N is T - length.
    Raises `UserError` when the text is too short.
    """
    if len(ids) <= length:
        raise UserError(f"a text of {len(ids)} tokens is too short for chunks of {length} and the token after")
    return {"tokens": ids[:-1].unfold(0, length, 1), "targets": ids[1:].unfold(0, length, 1)}


def blocks(ids: Tensor, length: int, context: int = 0) -> Batch:
    """Return the text cut into blocks of `length`: "tokens" (N, length) and "targets", the same one id later.

    Each id but the first is predicted exactly once: for evaluation. The last block is filled up, its targets with IGNORED.
    With a `context` below `length`, a block repeats so many ids of the one before, so that no prediction has to do with
    fewer of them, but those at the beginning of the text.
    """
    if len(ids) < 2:
        raise UserError(f"a text of {len(ids)} tokens has nothing to predict")
    step = length - context
    missing = max(length - (len(ids) - 1), -(len(ids) - 1 - context) % step)
    tokens, targets = F.pad(ids[:-1], (0, missing)), F.pad(ids[1:], (0, missing), value=IGNORED)
    targets = targets.unfold(0, length, step).clone()  # (T,) -> (N, length)
    targets[1:, :context] = IGNORED
    return {"tokens": tokens.unfold(0, length, step), "targets": targets}


def streams(ids: Tensor, length: int, count: int) -> Batch:
    """Return the text cut into `count` parts that are read side by side, `length` ids at a time: what a carried state needs.

    In batches of `count` and not shuffled, row r of batch t continues row r of batch t - 1. "begins" (N,) is
    True where a part begins, in the first batch of an epoch. Each id but the first is predicted exactly once; what fills up
    the last batch is IGNORED. "tokens" and "targets" as those of `blocks`.
    """
    parts = blocks(ids, -(-(len(ids) - 1) // count))  # (count or fewer, ids of a part)
    missing = (0, -parts["tokens"].shape[1] % length, 0, count - len(parts["tokens"]))
    tokens, targets = F.pad(parts["tokens"], missing), F.pad(parts["targets"], missing, value=IGNORED)
    tokens, targets = (x.view(count, -1, length).transpose(0, 1).flatten(0, 1) for x in (tokens, targets))
    return {"tokens": tokens, "targets": targets, "begins": torch.arange(len(tokens)) < count}


def pad(rows: Sequence[Tensor], padding: int) -> Tensor:
    """Return rows of different lengths as one tensor (B, longest), filled up at the end."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=padding)
