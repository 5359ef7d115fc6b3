"""Dialogues as tokens: a template with marks, targets for answers alone, several dialogues packed into a row.

    <|user|>Name a colour.<|end|><|assistant|>Red.<|end|>

A mark is one token, which no text is encoded to, whatever a user types. Answers and the end mark after them are learnt.
"""

import json
from pathlib import Path
from typing import Any, Iterable, NamedTuple, Sequence

import torch

from dl.modules.GPT.BPE.tokenizer import BPE
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Splits, Vocabulary
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.data.text.textfiles import read_text
from dl.mytorch.data.text.vocabulary import UNKNOWN
from dl.mytorch.distributed import is_main
from dl.mytorch.files import check
from dl.mytorch.text.generation import Tokens

MARKS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
END = "<|end|>"
ROW = ({"messages": [{"role": str, "content": str}]}, {"instruction": str, "input?": str, "output": str})

Dialogue = list[tuple[str, str]]  # (role, text)


def read_dialogues(path: Path) -> list[Dialogue]:
    """Return the dialogues of a file of JSON, one in each line (.jsonl) or a list of them, in either usual form:

    {"messages": [{"role": "user", "content": "..."}, ...]} or {"instruction": "...", "input": "...", "output": "..."}.
    Raises `UserError`, naming the dialogue, for any other, and for one without an answer.
    """
    text = read_text(path)
    try:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()] if path.suffix == ".jsonl" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    return [_dialogue(row, f"{path}, dialogue {i + 1}") for i, row in enumerate(check(rows, [object], str(path)))]


def _dialogue(row: Any, where: str) -> Dialogue:
    check(row, ROW, where)
    if "messages" in row:
        found = [(message["role"], message["content"]) for message in row["messages"]]
    else:
        given = "\n".join(filter(None, (row["instruction"], row.get("input", ""))))
        found = [("user", given), ("assistant", row["output"])]
    if unknown := {role for role, _ in found} - set(MARKS):
        raise UserError(f"{where} has the role {min(unknown)!r}; there are {', '.join(MARKS)}")
    if not any(role == "assistant" and text for role, text in found):
        raise UserError(f"{where} has no answer: nothing would be learnt from it")
    return found


# ---- tokens --------------------------------------------------------------------------------------------------------


def characters(dialogues: Iterable[Dialogue]) -> Vocabulary:
    """Return the characters of dialogues, one for unknown ones, and the marks."""
    return Vocabulary.build((c for found in dialogues for _, text in found for c in text), (UNKNOWN, END, *MARKS.values()))


def with_marks(tokens: Tokens) -> Tokens:
    """Return the tokens of a run with the marks that they lack, after all others."""
    if isinstance(tokens, BPE):
        return BPE(tokens.merges, [*tokens.special, END, *MARKS.values()])
    return Vocabulary([*tokens.tokens, *(mark for mark in (END, *MARKS.values()) if mark not in tokens)])


def mark_id(tokens: Tokens, mark: str) -> int:
    """Return the id of a mark."""
    return tokens.special[mark] if isinstance(tokens, BPE) else tokens[mark]


def to_text(tokens: Tokens, ids: Sequence[int]) -> str:
    """Return the text of ids, marks included."""
    decoded = tokens.decode(ids)
    return decoded if isinstance(decoded, str) else "".join(decoded)


class Example(NamedTuple):
    """A dialogue as ids, and which of them are learnt."""

    ids: list[int]
    learnt: list[bool]


def template(tokens: Tokens, dialogue: Dialogue) -> Example:
    """Return a dialogue in the form above; of it answers and their end marks are learnt."""
    ids, learnt = [], []
    for role, text in dialogue:
        own = [*tokens.encode(text), mark_id(tokens, END)]
        ids += [mark_id(tokens, MARKS[role]), *own]
        learnt += [False, *[role == "assistant"] * len(own)]
    return Example(ids, learnt)


def prompt(tokens: Tokens, dialogue: Dialogue) -> list[int]:
    """Return what an answer follows: a dialogue up to its last answer, and the mark that begins one."""
    before = dialogue[: max(i for i, (role, _) in enumerate(dialogue) if role == "assistant")]
    return [*template(tokens, before).ids, mark_id(tokens, MARKS["assistant"])]


# ---- batches -------------------------------------------------------------------------------------------------------


def pack(examples: Sequence[Example], length: int) -> Batch:
    """Return examples of at most `length` + 1 tokens as rows of `length`, each as full as the next example in order lets it be.

    "tokens" (N, length), "targets", the same one id later where that is learnt, else `IGNORED`, and "documents": the number
    of the example that a token is of, from 0 on in each row, -1 for padding at its end.
    """
    rows: list[list[Example]] = []
    room = 0
    for example in examples:
        if len(example.ids) - 1 > room:
            rows.append([])
            room = length
        rows[-1].append(example)
        room -= len(example.ids) - 1
    batch = {name: torch.full((len(rows), length), value) for name, value in (("tokens", 0), ("targets", IGNORED))}
    batch["documents"] = torch.full((len(rows), length), -1)
    for i, row in enumerate(rows):
        start = 0
        for j, (ids, learnt) in enumerate(row):
            place = slice(start, start := start + len(ids) - 1)
            batch["tokens"][i, place] = torch.tensor(ids[:-1])
            batch["targets"][i, place] = torch.tensor(ids[1:]).where(torch.tensor(learnt[1:]), IGNORED)
            batch["documents"][i, place] = j
    return batch


def parts(dialogues: Sequence[Dialogue], seed: int, where: Path) -> tuple[list[Dialogue], list[Dialogue], list[Dialogue]]:
    """Return those that train, validate (a tenth) and are the test (a tenth), by the seed.

    Raises `UserError` for fewer than three.
    """
    if len(dialogues) < 3:
        raise UserError(f"{where}: {len(dialogues)} dialogues are too few to train, to validate and to test: 3 at least")
    order = torch.randperm(len(dialogues), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out, found = max(1, len(order) // 10), [dialogues[i] for i in order]
    return found[2 * held_out :], found[:held_out], found[held_out : 2 * held_out]


def chat_splits(found: Sequence[Sequence[Dialogue]], tokens: Tokens, length: int, batch_size: int, seed: int) -> Splits:
    """Return `parts` as packed rows. Dialogues that do not fit into `length` are left out, and a line says how many.

    Raises `UserError` where none is left.
    """
    loaders, left_out = [], 0
    for name, dialogues in zip(("train", "val", "test"), found):
        examples = [template(tokens, dialogue) for dialogue in dialogues]
        fitting = [example for example in examples if len(example.ids) <= length + 1]
        left_out += len(examples) - len(fitting)
        if not fitting:
            raise UserError(f"no dialogue of the part {name} has {length + 1} tokens or fewer: a larger --context-length helps")
        shuffled = name == "train"
        loaders.append(Loader(pack(fitting, length), batch_size, shuffle=shuffled, seed=seed))
    if left_out and is_main():
        print(f"note: {left_out} dialogues are longer than the {length} tokens of a context, and left out")
    return Splits(*loaders, vocabularies={"tokens": tokens})
