"""Text files, read strictly."""

from pathlib import Path

from dl.mytorch.config import UserError
from dl.mytorch.data.sources import read_bytes
from dl.mytorch.files import regular_file


def read_text(path: Path | str) -> str:
    """The text of a UTF-8 file, plain or gzipped (.gz), line ends as they are.

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
    """The lines of `read_text`, without their ends.

    Only line feeds end a line, which `str.splitlines` sees differently: it cuts at U+2028 and others, too.
    """
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]
