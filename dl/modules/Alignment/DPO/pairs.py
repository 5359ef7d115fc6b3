"""Preference pairs: a prompt and two answers, of which one was chosen. Read from a file, and as tokens for `Preferences`.

A file is JSON, a list, or JSON lines, one object each; .gz too. An object is one of

    {"prompt": ..., "chosen": ..., "rejected": ...}
    {"instruction": ..., "input": ..., "chosen": ..., "rejected": ...}         the prompt is both, each with a line's end
    {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": ...}            dialogues that differ in the last answer
"""

import json
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import torch
from torch.nn import functional as F

from dl.mytorch.config import UserError
from dl.mytorch.data import Batch
from dl.mytorch.data.sequences import pad
from dl.mytorch.data.text.textfiles import read_text
from dl.mytorch.files import check, recorded_write
from dl.mytorch.text.generation import Tokens

ANSWER = "\n\nAssistant:"  # what the last answer of a dialogue stands after
SCHEMA = {"prompt?": str, "instruction?": str, "input?": str, "chosen": str, "rejected": str, "part?": str}


class Pair(NamedTuple):
    """Texts of a prompt and two answers, and the part of the data that they belong to, if that is known."""

    prompt: str
    chosen: str
    rejected: str
    part: str = ""


def read_pairs(path: Path | str) -> tuple[list[Pair], int]:
    """Return the pairs of a file, and how many were left out: both answers the same, or dialogues that part before the last.

    Raises `UserError`, naming file and line, for what is none of the forms above, and when no pair is left.
    """
    found, rows = [], _rows(path)
    for where, row in rows:
        pair = _pair(check(row, SCHEMA, where), where)
        if pair is not None and pair.chosen != pair.rejected:
            found.append(pair)
    if not found:
        raise UserError(f"{path} has no pair of different answers to one prompt")
    return found, len(rows) - len(found)


def _rows(path: Path | str) -> list[tuple[str, Any]]:
    """Return the objects of a file, each with its name in an error."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return [(f"{path}, pair {i}", row) for i, row in enumerate(_parsed(text, path), 1)]
    lines = enumerate(text.split("\n"), 1)
    return [(where := f"{path}, line {number}", _parsed(line, where)) for number, line in lines if line.strip()]


def _parsed(text: str, where: Path | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no valid JSON ({error})") from None


def _pair(row: dict[str, str], where: str) -> Pair | None:
    """Return the pair in a row, None for dialogues whose prompts differ."""
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row:
        prompt = row["prompt"]
    elif "instruction" in row:
        prompt = "".join(f"{row[name]}\n" for name in ("instruction", "input") if row.get(name))
    else:
        cut = chosen.rfind(ANSWER) + len(ANSWER)
        prompt, chosen, rest, rejected = chosen[:cut], chosen[cut:], rejected[:cut], rejected[cut:]
        if cut < len(ANSWER):
            raise UserError(f"{where} has neither a prompt nor an instruction, and is no dialogue: no {ANSWER.strip()}")
        if prompt != rest or ANSWER in rejected:
            return None
    if not (prompt and chosen and rejected):
        raise UserError(f"{where}: the prompt or an answer is empty")
    return Pair(prompt, chosen, rejected, row.get("part", ""))


def write_pairs(pairs: Sequence[Pair], path: Path) -> None:
    """Write pairs as JSON lines, with a checksum."""
    with recorded_write(path) as file:
        for pair in pairs:
            file.write(json.dumps(pair._asdict(), ensure_ascii=False).encode() + b"\n")


class Ids(NamedTuple):
    """A pair in tokens."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def encode(pairs: Sequence[Pair], tokens: Tokens, end: Sequence[int] = ()) -> list[Ids]:
    """Return pairs in tokens. A prompt's do not depend on what follows it; `end` ends each answer."""
    return [Ids(tokens.encode(p.prompt), *([*tokens.encode(answer), *end] for answer in p[1:3])) for p in pairs]


def batch_of(pairs: Sequence[Ids], longest: int) -> Batch:
    """Return pairs as `Preferences` reads them: "chosen", "rejected", "mismatched" (N, T), lengths (N,).

    "mismatched" is a prompt with an answer to the next other prompt, in turn a chosen and a rejected one, cut to `longest`
    tokens; no pair is longer.
    """
    found = {"prompt_length": torch.tensor([len(pair.prompt) for pair in pairs])}
    answers = {
        "chosen": [pair.chosen for pair in pairs],
        "rejected": [pair.rejected for pair in pairs],
        "mismatched": [pairs[j][1 + i % 2] for i, j in enumerate(_next_prompts(pairs))],
    }
    for name, rows in answers.items():
        texts = [torch.tensor((pair.prompt + answer)[:longest]) for pair, answer in zip(pairs, rows)]
        found[f"{name}_length"] = torch.tensor([len(text) for text in texts])
        found[name] = pad(texts, padding=0)
    longest = max(found[name].shape[1] for name in answers)
    return found | {name: F.pad(found[name], (0, longest - found[name].shape[1])) for name in answers}


def _next_prompts(pairs: Sequence[Ids]) -> list[int]:
    """Return for each pair the next one, from the last on to the first, that has another prompt; if there is one."""
    count = len(pairs)
    found = [(i + 1) % count for i in range(count)]
    for i in reversed(range(2 * count)):
        if pairs[i % count].prompt == pairs[(i + 1) % count].prompt:
            found[i % count] = found[(i + 1) % count]
    return found
