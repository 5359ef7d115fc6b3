"""The equations of a README, each with the line of code that computes it.

`<!-- beside task.py: loss = ... -->` before an equation, $$...$$, names a file beside the README and what stands in one line
of it. Of several such comments each is for one part of the equation, between \\qquad; `<!-- beside nothing -->` is for a part
that no line computes.
"""

import ast
import os
import re
from pathlib import Path
from typing import NamedTuple

COMMENT = re.compile(r"<!-- beside (?:nothing|(?P<file>[\w./]+): (?P<text>.+?)) -->\n")
EQUATION = re.compile(r"(?P<comments>(?:<!-- beside .+? -->\n)*)\$\$(?P<latex>.+?)\$\$", re.DOTALL)


class Equation(NamedTuple):
    """LaTeX, and the statement that computes it: its file, its first line, and the line that is named."""

    latex: str
    file: Path
    start: int
    line: int

    def pieces(self) -> list[str]:
        """Return the LaTeX in pieces for a narrow column: what quads part, but inside brackets."""
        pieces = [piece.strip() for piece in re.split(r"\\q?quad(?![a-z])", self.latex)]
        pairs = (("{", "}"), (r"\left", r"\right"))
        whole = all(piece.count(one) == piece.count(other) for piece in pieces for one, other in pairs)
        return [piece for piece in pieces if piece] if whole else [self.latex]


def without_comments(text: str) -> str:
    return COMMENT.sub("", text)


def unplaced(text: str) -> list[str]:
    """Return the equations of a README that have no comment."""
    return [match["latex"].strip() for match in EQUATION.finditer(text) if not match["comments"]]


def read(readme: Path) -> list[Equation]:
    """Return the equations of a README that have a line. Raises `ValueError`, naming the README, where it is not there."""
    found = []
    for match in EQUATION.finditer(readme.read_text(encoding="utf-8")):
        comments = list(COMMENT.finditer(match["comments"]))
        parts = [match["latex"]] if len(comments) < 2 else re.split(r"\\qquad", match["latex"])
        if comments and len(parts) != len(comments):
            raise ValueError(f"{readme}: {len(comments)} comments before an equation of {len(parts)} parts: {parts[0].strip()}")
        for part, comment in zip(parts, comments):
            if comment["file"]:
                file = Path(os.path.normpath(readme.parent / comment["file"]))
                start, line = _place(readme, file, comment["text"])
                found.append(Equation(part.strip().rstrip(",").strip(), file, start, line))
    return found


def _place(readme: Path, file: Path, text: str) -> tuple[int, int]:
    """Return the first line of the statement that `text` is in, and the line of `text`."""
    source = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = [i for i, line in enumerate(source.splitlines(), 1) if text in line]
    if len(lines) != 1:
        raise ValueError(f'{readme}: an equation stands beside "{text}", which is in {len(lines)} lines of {file.name}')
    around = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt) and _has(node, lines[0])]
    return max((node.lineno for node in around), default=lines[0]), lines[0]


def _has(node: ast.stmt, line: int) -> bool:
    """Whether a statement, without the statements in it, reaches over `line`."""
    inner = getattr(node, "body", None)
    end = inner[0].lineno - 1 if isinstance(inner, list) and inner else node.end_lineno or node.lineno
    return node.lineno <= line <= max(end, node.lineno)
