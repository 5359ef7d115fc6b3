"""Text files of data sets: found, downloaded, read strictly."""

import hashlib
import io
import urllib.request
import zipfile
from pathlib import Path
from typing import Mapping, NamedTuple

from dl.mytorch.config import UserError
from dl.mytorch.data.sources import read_bytes
from dl.mytorch.distributed import barrier, is_main
from dl.mytorch.files import atomic_write, regular_file

DATA = Path(__file__).parents[4] / "data"


class Remote(NamedTuple):
    """Where a file is to be had, and which one it has to be."""

    url: str
    blob: str  # git's name for what is there: sha1 of "blob <bytes>\0<content>"
    member: str = ""  # of a zip archive: the file in it


class Source(NamedTuple):
    """The files of a set in a folder of data/, each with where it is to be had, and what helps if it is not."""

    folder: str
    files: Mapping[str, Remote | None]
    help: str

    @property
    def place(self) -> Path:
        """The folder in data/, or the one in it that holds all files: an archive as it was unpacked."""
        folder = DATA / self.folder
        inside = sorted(folder.iterdir()) if folder.is_dir() else []
        return next((path for path in [folder, *inside] if all((path / name).exists() for name in self.files)), folder)

    def missing(self) -> list[str]:
        """The names of the files that are not there."""
        return [name for name in self.files if not (self.place / name).exists()]


def find(source: Source) -> Path:
    """The folder of a set, with all its files in it: those that are missing are downloaded first.

    Raises `UserError` when one is not to be had, with the place it was looked for in and what helps.
    """
    if is_main():
        for name in source.missing():
            _download(source.files[name], source.place / name, source.help)
    barrier()  # the other ranks wait for the downloads of the first
    return source.place


def _download(remote: Remote | None, path: Path, help: str) -> None:
    """The file at `path`, whole and as published, or not at all."""
    if remote is None:
        raise UserError(f"{path} does not exist. What helps: {help}")
    print(f"{path} does not exist; downloading it from {remote.url}", flush=True)
    try:
        with urllib.request.urlopen(remote.url, timeout=60) as response:
            content = response.read()
    except OSError as error:  # no network, no such page, cut off
        raise UserError(f"{path} does not exist, and {remote.url} cannot be downloaded ({error}). What helps: {help}") from None
    if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != remote.blob:
        raise UserError(f"{remote.url} no longer gives the published file (its checksum differs). What helps: {help}")
    if remote.member:
        content = zipfile.ZipFile(io.BytesIO(content)).read(remote.member)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(content)


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
