"""Text files, read strictly."""

import csv
import io
from pathlib import Path

from dl.mytorch.config import UserError
from dl.mytorch.data.sources import read_bytes
from dl.mytorch.files import regular_file


def read_text(path: Path | str) -> str:
    """Return the text of a UTF-8 file, plain or gzipped (.gz), line ends as they are.

    Raises `UserError`, naming the file, when it is missing, no regular file, damaged, empty, or not UTF-8 (with the place of
    the bad byte).
    """
    path = regular_file(path)
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")  # a byte order mark is no part of the text
    except UnicodeDecodeError as error:
        place = error.start + (3 if content.startswith(b"\xef\xbb\xbf") else 0)
        line = content.count(b"\n", 0, place) + 1
        raise UserError(f"{path} is not UTF-8: byte {place} (line {line}) is 0x{content[place]:02x}") from None
    if not text.strip():
        raise UserError(f"{path} is empty")
    return text


def read_lines(path: Path | str) -> list[str]:
    """Return the lines of `read_text`, without their ends.

    Only line feeds end a line, which `str.splitlines` sees differently: it cuts at U+2028 and others, too.
    """
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_rows(path: Path | str) -> list[tuple[int, list[str]]]:
    """The rows of a table of text, each with the number of its last line: a .csv (also .csv.gz) has commas, and quotes around
    cells that hold commas, quotes or line ends; in any other file a tab is between two cells and nothing is quoted.

    Raises `UserError` for what `read_text` refuses, and for a quote that is never closed or a cell of more than 131,072 signs.
    """
    if ".csv" not in Path(path).suffixes:
        return [(number, line.split("\t")) for number, line in enumerate(read_lines(path), 1)]
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: {error}") from None
