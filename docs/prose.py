"""READMEs as pages of the site: formulas become MathML, links lead to pages or to copies of files."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable

from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
CHINESE = re.compile(r'^<p lang="zh">(.*?)</p>\n*', re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#+) (.*?) <!-- zh: (.*?) -->$", re.MULTILINE)
ENGLISH_COLUMN, CHINESE_COLUMN = "meaning", "\u8bf4\u660e"  # of a table that has both
CODE = re.compile(r"(^```.*?^```[ \t]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Return `text` with `change` made everywhere but in code."""
    return "".join(part if i % 2 else change(part) for i, part in enumerate(CODE.split(text)))


def with_formulas(text: str) -> str:
    """Return Markdown with its formulas, $...$ and $$...$$, as MathML, which browsers draw by themselves.

    No script and no font is loaded for them, and screen readers read them. In a line of text one is in a span, without which
    Markdown takes it for a paragraph. A price, $5, is none: the last $ of a formula is next to it, and no digit follows.
    """

    def change(part: str) -> str:
        part = re.sub(r"\$\$(.+?)\$\$", lambda m: convert(m[1].strip(), display="block"), part, flags=re.DOTALL)
        return re.sub(r"\$(?!\s)([^$\n]+)(?<!\s)\$(?!\d)", lambda m: f'<span class="math">{convert(m[1])}</span>', part)

    return outside_code(text, change)


class Links:
    """Where files of the repository are on the site: `pages` {file: page}, both as seen from their roots."""

    def __init__(self, pages: dict[str, str], out: Path) -> None:
        self.pages, self.out = pages, out

    def target(self, file: str) -> str:
        """Return the place of a file on the site; what is no page is copied."""
        for name in (file, f"{file}/README.md"):
            if name in self.pages:
                return self.pages[name]
        return self.copied(file)

    def copied(self, file: str) -> str:
        """Return the place of a copy of a file, which it makes. Raises `ValueError` for no file."""
        path = ROOT / file
        if path.is_dir():
            path = path / "README.md" if (path / "README.md").exists() else path / "__init__.py"
        if not path.is_file():
            raise ValueError(f"{file} is linked, and is not there")
        kept = path.suffix in (".png", ".gif", ".svg")
        place = Path("files", path.relative_to(ROOT)).as_posix() + ("" if kept else ".txt")
        (self.out / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.out / place)
        return place

    def rewritten(self, text: str, file: str, page: str) -> str:
        """Return the text of `file` with its links as they have to be on `page`."""

        def link(match: re.Match[str]) -> str:
            address, mark, anchor = match[2].partition("#")
            if re.match(r"\w+:", address) or not address:
                return match[0]
            target = os.path.normpath((Path(file).parent / address).as_posix()).replace(os.sep, "/")
            place = os.path.relpath(self.target(target), Path(page).parent).replace(os.sep, "/")
            return f"{match[1]}({place}{mark}{anchor if place.endswith('.md') else ''})"

        return outside_code(text, lambda part: re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", link, part))


def sections(text: str) -> dict[str, str]:
    """Return the parts of a README by their headings of the second level, with these; the first is ""."""
    inside = CODE.sub(lambda m: m[0].replace("\n## ", "\n\0## "), text)
    parts = re.split(r"^(?=## )", inside, flags=re.MULTILINE)
    return {part.partition("\n")[0][3:] if part.startswith("## ") else "": part.replace("\0", "") for part in parts}


def in_language(text: str, language: str, words: dict[str, Any]) -> str:
    """Return a text without its Chinese paragraphs; in Chinese each takes the place of the English paragraph or list above it.

    So do the names of headings, `## Tests <!-- zh: ... -->`, and in tables the column after that of the English meaning. The
    page says so if some of it is English.
    """
    blocks = _blocks(text)
    if language != "zh":
        kept = [HEADING.sub(r"\1 \2", _without_column(block, CHINESE_COLUMN)) for block in blocks if not CHINESE.match(block)]
        return "\n\n".join(kept) + "\n"
    kept, first = [], 0
    for block in blocks:
        if chinese := CHINESE.match(block):
            if _is_prose(kept[-1]):
                kept.pop()
            kept.append(re.sub(r'<a href="(.*?)">(.*?)</a>', r"[\2](\1)", " ".join(chinese[1].split())))
            first = first or len(kept)
        else:
            heading = HEADING.sub(lambda m: f"{m[1]} {m[3]} {{: #{_anchor(m[2])} }}", block)
            kept.append(_without_column(heading, ENGLISH_COLUMN))
    if any(_is_prose(block) and not re.search("[\u4e00-\u9fff]", block) for block in kept):
        kept.insert(first or 1, f"*{words['rest']}*")
    return "\n\n".join(kept) + "\n"


def _blocks(text: str) -> list[str]:
    """Return the blocks of a text, which are between blank lines outside of code."""
    inside = CODE.sub(lambda m: re.sub(r"\n(?=\n)", "\n\0", m[0]), text)
    return [block.replace("\0", "").strip("\n") for block in re.split(r"\n{2,}", inside) if block.strip()]


def _is_prose(block: str) -> bool:
    return not block.startswith(("#", "```", "|", "<", "$$", "!["))


def _anchor(heading: str) -> str:
    """Return the anchor that a heading has in English, so that links to it hold in Chinese."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def _without_column(block: str, heading: str) -> str:
    """Return a table without the column of that heading, if it has both of those that say the same; else the block as it is."""
    head = [cell.strip() for cell in block.partition("\n")[0].strip("| ").split(" | ")]
    if not {ENGLISH_COLUMN, CHINESE_COLUMN} <= set(head):
        return block
    rows = [re.split(r"\s*\|\s*", line.strip()[1:-1].strip()) for line in block.splitlines()]
    return "\n".join(f"| {' | '.join(cell for i, cell in enumerate(row) if head[i] != heading)} |" for row in rows)
