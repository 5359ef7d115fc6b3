"""The tree has one term for one thing: none of the expressions of docs/words.toml is found in it."""

import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIST = tomllib.loads((ROOT / "docs" / "words.toml").read_text(encoding="utf-8"))


def parts(path: Path, text: str) -> Iterator[tuple[str, int, str]]:
    """Yield (scope, line, text): a Markdown file as it is; comments, strings with a space and names of a Python file."""
    if path.suffix == ".md":
        yield "prose", 1, text
        return
    for kind, word, (line, _), _, _ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind == tokenize.NAME:
            yield "name", line, word
        elif kind == tokenize.COMMENT or " " in word.strip():
            yield "prose", line, word


def found(path: Path, words: list[dict[str, str]]) -> list[str]:
    """Return a line for each place of a file that has one of the words."""
    text = path.read_text(encoding="utf-8")
    here = [word for word in words if re.search(word["not"], text)]
    return [
        f"{path}:{line + part.count(chr(10), 0, match.start())}: {match[0]!r}: {word['but']}"
        for scope, line, part in (parts(path, text) if here else ())
        for word in here
        for match in re.finditer(word["not"], part)
        if word["in"] == scope and (scope == "prose" or match[0] == part)
    ]


def test_the_words_of_the_glossary_are_kept() -> None:
    paths = [
        *ROOT.glob("*.md"),
        *ROOT.glob(".github/*.md"),
        *ROOT.glob("data/*/*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("dl/**/*.md"),
        *ROOT.glob("dl/**/*.py"),
        ROOT / "conftest.py",
    ]
    paths = [path for path in paths if path.relative_to(ROOT).as_posix() not in LIST["skip"]]
    assert [line for path in paths for line in found(path, LIST["word"])] == []


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.py", '"""Learn it\n\nin vain."""\nx = 1  # in vain\nin_vain = "vain"\n', [3, 4]),
        ("a.py", "class Old:\n    pass  # an Old\n", [1]),
        ("a.md", "Trained.\nBy the way, in vain.\n", [2]),
    ],
)
def test_a_word_is_found_with_its_line(tmp_path: Path, name: str, text: str, lines: list[int]) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    words = [{"not": r"in vain\b", "but": "", "in": "prose"}, {"not": "Old", "but": "", "in": "name"}]
    assert [int(line.split(":")[-3]) for line in found(tmp_path / name, words)] == lines
