"""A Python file as two columns: what docstrings and comments say on the left, the code on the right."""

import ast
import html
import re
import textwrap
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

import markdown
from equations import Equation
from latex2mathml.converter import convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer


class Part(NamedTuple):
    """A note in Markdown, and the numbers of the lines of code that it is about."""

    note: str
    lines: list[int]


def parts(source: str, beside: dict[int, str] | None = None) -> list[Part]:
    """Return a file as notes and code, in its order: each line that is neither docstring nor note is in one part.

    `beside` are further notes, HTML, by the number of the line at whose height each stands.
    """
    lines = source.splitlines()
    found: list[Part] = []
    for start, end, docstring in _places(ast.parse(source), len(lines)):
        first, comments = start, []
        while docstring is None and first < end and lines[first - 1].startswith("#"):
            comments.append(lines[first - 1].lstrip("# "))
            first += 1
        note, code = "\n".join(comments), list(range(first, end))
        if docstring is not None:
            said_at, note, until = docstring
            code = [*range(start, said_at), *range(until, end)]
        if note or not found:
            found.append(Part(note, code))
        else:  # what has no note of its own belongs to the one above
            found[-1].lines.extend(code)
    return [piece for part in found for piece in _cut(part, beside or {})]


def _cut(part: Part, beside: dict[int, str]) -> list[Part]:
    """Return a part in pieces: one more begins at each line that `beside` has a note for."""
    places = [i for i, line in enumerate(part.lines) if line in beside]
    starts, ends = [0, *places], [*places, len(part.lines)]
    notes = [part.note, *(beside[part.lines[i]] for i in places)]
    return [Part(note, part.lines[start:end]) for note, start, end in zip(notes, starts, ends)]


def _places(tree: ast.Module, length: int) -> Iterator[tuple[int, int, tuple[int, str, int] | None]]:
    """Yield where a statement starts and the next one does, and its docstring: line, text, first line after it."""
    starts: list[tuple[int, ast.AST]] = [(1, tree)]
    for node in tree.body[1 if ast.get_docstring(tree) else 0 :]:
        starts.append((_start(node), node))
        if isinstance(node, ast.ClassDef):
            starts += [(_start(each), each) for each in node.body if isinstance(each, ast.FunctionDef)]
    ends = [start for start, _ in starts[1:]] + [length + 1]
    for (start, node), end in zip(starts, ends):
        yield start, end, _docstring(node)


def _start(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])


def _docstring(node: ast.AST) -> tuple[int, str, int] | None:
    if not isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) or not (said := ast.get_docstring(node)):
        return None
    expression = node.body[0]
    return expression.lineno, said, (expression.end_lineno or expression.lineno) + 1


def as_markdown(docstring: str) -> str:
    """Return a docstring with its lists of arguments as lists of Markdown."""

    def listed(match: re.Match[str]) -> str:
        items = re.sub(r"^(\*{0,2}[\w, `]+): ", r"- `\1`: ", textwrap.dedent(match[2]), flags=re.MULTILINE)
        return f"**{match[1]}**\n\n{items}"

    docstring = re.sub(r"(?<![<(\[`\"])(https?://[^\s,)>]*[^\s,)>.:;])", r"<\1>", docstring)
    docstring = re.sub(
        r"^(?!\s*[-*] )(.*\S.*)\n(?=[-*] )", r"\1\n\n", docstring, flags=re.MULTILINE
    )  # a list needs a blank line
    return re.sub(r"^(Args|Returns|Raises|Deviations):\n((?:[ \t]+.*\n?|\n(?=[ \t]))+)", listed, docstring, flags=re.MULTILINE)


def page(path: Path, source_link: str, equations: Sequence[Equation] = (), name: str = "") -> str:
    """Return a file as HTML; each line has an anchor, L12, that links `source_link` with its number, which is not copied along.

    Each of the `equations` stands beside the line that computes it. With a `name`, which begins the anchors, only the
    definitions that compute one are shown.
    """
    source = path.read_text(encoding="utf-8")
    beside: dict[int, str] = {}
    for equation in equations:
        beside[equation.start] = beside.get(equation.start, "") + "".join(map(_displayed, equation.pieces()))
    marked = {equation.line for equation in equations}
    coloured = highlight(source, PythonLexer(stripnl=False), HtmlFormatter(nowrap=True)).split("\n")
    lines, rows = source.splitlines(), []
    shown = _around(source, marked) if name else range(len(lines) + 1)
    for part in parts(source, beside):
        numbers = _without_blank_ends([i for i in part.lines if i in shown], lines)
        if name and not numbers:
            continue
        note = markdown.markdown(as_markdown(part.note), extensions=["tables", "sane_lists"])
        code = "".join(_row(i, lines[i - 1], coloured[i - 1], source_link, name, i in marked) for i in numbers)
        if code:
            code = f'<div class="code"><div class="highlight"><pre tabindex="0"><code>{code}</code></pre></div></div>'
        rows.append(f'<div class="annotated{"" if code else " alone"}"><div class="note">{note}</div>{code}</div>')
    return "\n".join(rows)


def _row(number: int, line: str, coloured: str, source_link: str, name: str, marked: bool) -> str:
    """Return a line of code, which goes on below itself, four characters further right, where it is too long."""
    indent = len(line) - len(line.lstrip())
    style = f' style="--indent: {indent}"' if indent else ""
    address = f'id="{name}L{number}" href="{html.escape(source_link)}#L{number}" aria-label="L{number}"'
    anchor = f'<a class="line" {address} data-line="{number}"></a>'
    coloured = re.sub(r"^\s*(?:<span[^>]*>[^<\s]*</span>|[^<\s]+)?", rf'<span class="start">{anchor}\g<0></span>', coloured)
    return f'<span class="row{" computes" * marked}"{style}>{coloured}\n</span>'


def _displayed(latex: str) -> str:
    return convert(latex, display="block")


def _around(source: str, marked: set[int]) -> set[int]:
    """Return the lines of the outermost definitions that have one of the lines `marked`."""
    places = [range(_start(node), (node.end_lineno or node.lineno) + 1) for node in ast.parse(source).body]
    return {i for place in places if marked & set(place) for i in place}


def _without_blank_ends(numbers: list[int], lines: list[str]) -> list[int]:
    filled = [i for i, number in enumerate(numbers) if lines[number - 1].strip()]
    return numbers[filled[0] : filled[-1] + 1] if filled else []
