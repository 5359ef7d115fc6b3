"""What a language model makes of a file: `python -m dl evaluate RUN --with bits_per_byte,word_perplexity,choices FILE`."""

import json
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

from torch import nn

from dl.cli.catalogue import UnknownName
from dl.cli.command import check_range
from dl.cli.runs import Run
from dl.cli.verbs import find_command
from dl.mytorch.config import UserError
from dl.mytorch.data.text.textfiles import read_lines, read_text
from dl.mytorch.distributed import device
from dl.mytorch.files import check, shown
from dl.mytorch.text import likelihood
from dl.mytorch.text.generation import Tokens
from dl.mytorch.text.likelihood import Likelihood

MEASURES = ("bits_per_byte", "word_perplexity", "choices")
QUESTION = {"prompt?": str, "question?": str, "choices": [str], "answer": (int, str), "delimiter?": str}
RULES = {"acc": "choices error", "acc_norm": "choices error, per character", "acc_bytes": "choices error, per byte"}


class Question(NamedTuple):
    """A text, its possible continuations, and which is right."""

    where: str  # "FILE, line 3"
    context: str
    choices: list[str]
    answer: int
    delimiter: str  # between the context and a choice


def measure(run: Run, names: Sequence[str], file: Path, stride: int | None = None) -> Iterator[str]:
    """Yield lines with the figures `names`, of MEASURES, of the best weights of `run` on `file`.

    A file of questions, *.jsonl, has all of them; bits per byte and perplexity are then those of the right answers, given
    their questions. Any other file is a text. Raises `UserError` for a run of no language model and what a file cannot be.
    """
    if unknown := [name for name in names if name not in MEASURES]:
        raise UserError(f"--with {unknown[0]} reads no file: of one there are {', '.join(MEASURES)}")
    asks = file.suffix == ".jsonl"
    if "choices" in names and not asks:
        raise UserError(f'--with choices reads a file *.jsonl, lines {{"prompt", "choices", "answer"}}; got {file}')
    content = read_questions(file) if asks else read_text(file).replace("\r\n", "\n")
    model, tokens = load(run, names[0])
    check_range("--stride", stride, 1, model.max_length)
    if isinstance(content, str):
        stride = stride or max(1, model.max_length // 2)
        found, about = of_text(model, tokens, content, file, stride)
        errors = {}
    else:
        found, errors = of_questions(model, tokens, content)
        chance = 1 - sum(1 / len(question.choices) for question in content) / len(content)
        about = f"{len(content):,} questions; a choice at random is wrong in {chance:.2%}"
    if "bits_per_byte" in names:
        yield f"bits per byte {found.bits_per_byte:.6g}"
    if "word_perplexity" in names:
        yield f"word perplexity {found.word_perplexity():.6g}"
        if found.num_lines:
            yield f"word perplexity, a line's end being a word {found.word_perplexity(lines_count=True):.6g}"
    if "choices" in names:
        yield from (f"{RULES[rule]} {error:.2%}" for rule, error in errors.items())
    yield about


def load(run: Run, name: str) -> tuple[nn.Module, Tokens]:
    """Return the network and its tokens, by the `generate` command of its category. Raises `UserError` if there is none."""
    try:
        model, tokens = find_command("generate", run.recipe).load(str(run.path))
    except UnknownName:
        raise UserError(f"--with {name}: {run.path} is a run of {run.recipe}, which is no language model") from None
    return model.to(device()), tokens


def of_text(model: nn.Module, tokens: Tokens, text: str, file: Path, stride: int) -> tuple[Likelihood, str]:
    """Return the likelihood of a text, read after the end of a line, and how it was read."""
    text = likelihood.plain(tokens, text)
    try:
        ids = likelihood.encode(tokens, text)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    nats = -likelihood.text_log_probs(model, likelihood.start(tokens) + ids, stride).sum().item()
    found = Likelihood.of(text, nats)
    how = f"{len(ids):,} tokens, {found.num_bytes:,} bytes, {found.num_words:,} words"
    if len(ids) <= model.max_length:
        return found, f"{how}; each token after all before it"
    fewest = max(0, model.max_length - stride)
    return found, f"{how}; windows of {model.max_length:,} tokens, stride {stride}: each after at least {fewest} others"


def of_questions(model: nn.Module, tokens: Tokens, questions: Sequence[Question]) -> tuple[Likelihood, dict[str, float]]:
    """Return the likelihood of all right answers together, and the share of questions with a wrong one by each rule."""
    wrong, right = dict.fromkeys(RULES, 0), []
    for question in questions:
        texts = [likelihood.choice_pair(question.context, choice, question.delimiter) for choice in question.choices]
        try:
            pairs = [likelihood.encode_pair(tokens, *pair) for pair in texts]
            scores = likelihood.continuation_log_probs(model, pairs)
        except UserError as error:
            raise UserError(f"{question.where}: {error}") from None
        right.append(Likelihood.of(texts[question.answer][1], -scores[question.answer]))
        for rule, choice in likelihood.likeliest(scores, question.choices).items():
            wrong[rule] += choice != question.answer
    total = Likelihood(*(sum(part) for part in zip(*right)))
    return total, {rule: count / len(questions) for rule, count in wrong.items()}


def read_questions(file: Path) -> list[Question]:
    """Return the questions of a JSON-lines file, blank lines left out.

    Each is {"prompt" or "question": text, "choices": [text, text, ...], "answer": its place or the text itself}; "delimiter",
    if it is there, stands between prompt and choice in place of a blank. Raises `UserError`, naming the line, for others.
    """
    numbered = [(f"{file}, line {number}", line) for number, line in enumerate(read_lines(file), 1) if line.strip()]
    return [_question(where, line) for where, line in numbered]


def _question(where: str, line: str) -> Question:
    try:
        value: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no valid JSON ({error})") from None
    fields = check(value, QUESTION, where)
    context = fields.get("prompt", fields.get("question"))
    choices, answer = fields["choices"], fields["answer"]
    if context is None:
        raise UserError(f'{where} lacks the field "prompt", or "question"')
    if len(choices) < 2 or not all(choice.strip() for choice in choices):
        raise UserError(f"{where}: choices are two texts or more, none of them blank; got {shown(choices)}")
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise UserError(f"{where}: answer is a place from 0 to {len(choices) - 1} or one of the choices; got {shown(answer)}")
    return Question(where, context, choices, answer, fields.get("delimiter", " "))
