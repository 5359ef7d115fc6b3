"""Text files: read as they are, refused by one line, downloaded only as published."""

import gzip
import hashlib
import io
import os
import re
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary, sources
from dl.mytorch.data.sources import Remote, Source
from dl.mytorch.data.text.sst2 import read
from dl.mytorch.data.text.textfiles import read_lines, read_text
from dl.mytorch.data.text.tokens import map_tokens
from dl.mytorch.data.text.translation import read_pairs


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """What urls give; others are not found. The data folder is an empty one."""
    pages: dict[str, bytes] = {}

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        if url not in pages:
            raise urllib.error.URLError("no such page")
        return io.BytesIO(pages[url])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(sources, "DATA", tmp_path)
    return pages


def test_text_comes_as_it_was_written(tmp_path: Path) -> None:
    text = "caf\u00e9\r\n\u2028 one line\n\n"
    (tmp_path / "plain.txt").write_bytes(text.encode())
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "packed.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("plain.txt", "marked.txt", "packed.gz"):
        assert read_text(tmp_path / name) == text


def test_an_archive_that_was_unpacked_in_its_place_is_found(tmp_path: Path, internet: dict[str, bytes]) -> None:
    source = Source(("set",), {"a.txt": None, "b.txt": None}, "")
    (tmp_path / "set" / "published").mkdir(parents=True)
    for name in source.files:
        assert sources.find(source) is None
        (tmp_path / "set" / "published" / name).touch()
    assert sources.get("set", source) == tmp_path / "set" / "published"


def test_only_line_feeds_end_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("one\u2028still one\x0b\x85\x1c!\r\n\ntwo".encode())
    assert read_lines(tmp_path / "a.txt") == ["one\u2028still one\x0b\x85\x1c!", "", "two"]
    (tmp_path / "b.txt").write_bytes(b"one\ntwo\n")
    assert read_lines(tmp_path / "b.txt") == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"good\nba\xe9d\n", "is not UTF-8: byte 7 (line 2) is 0xe9"),
        (b"\xef\xbb\xbfab\xff", "is not UTF-8: byte 5 (line 1) is 0xff"),
        (b"cut off \xe2\x82", "is not UTF-8: byte 8 (line 1) is 0xe2"),
        (b"", "is empty"),
        (b" \n\t\n", "is empty"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_the_place(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{re.escape(f'{path} {says}')}$"):
        read_text(path)
    packed = tmp_path / "text.txt.gz"
    packed.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=re.escape(says)):
        read_text(packed)


def test_a_missing_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.txt does not exist$"):
        read_text(tmp_path / "nowhere.txt")
    packed = gzip.compress(b"a text that is long enough" * 9)
    for content in (packed[:-9], b"no gzip at all", packed[:12] + b"\xff" * 20 + packed[32:]):
        (tmp_path / "cut.gz").write_bytes(content)
        with pytest.raises(UserError, match="cut.gz is cut off or damaged"):
            read_text(tmp_path / "cut.gz")


@pytest.mark.parametrize("make", ["mkdir", "mkfifo", "loop"])
def test_what_could_block_or_has_no_end_is_refused(tmp_path: Path, make: str) -> None:
    """By each reader of a text, of tokens and of a vocabulary."""
    if make != "mkdir" and sys.platform == "win32":
        pytest.skip("Windows has no such files")
    path, says = tmp_path / "x", "x (is a folder, not a file|is a device or pipe, not a file|cannot be read: Too many levels)"
    os.symlink(path, path) if make == "loop" else getattr(os, make)(path)
    for reader in (read_text, read_lines, read_pairs, read, map_tokens, Vocabulary.load):
        with pytest.raises(UserError, match=says):
            reader(path)


def test_a_file_that_is_there_is_not_downloaded(internet: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("mine", encoding="utf-8")
    assert sources.get("set", Source(("set",), {"a.txt": Remote("http://x/a", blob(b"theirs"))}, "")) == tmp_path / "set"
    assert (tmp_path / "set" / "a.txt").read_text(encoding="utf-8") == "mine"


def test_missing_files_are_downloaded_out_of_archives_too(internet: dict[str, bytes], tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("inner/b.txt", "bee")
    internet.update({"http://x/a": b"ay", "http://x/b.zip": archive.getvalue()})
    packed = Remote("http://x/b.zip", blob(archive.getvalue()), "inner/b.txt")
    remotes = {"a.txt": Remote("http://x/a", blob(b"ay")), "b.txt": packed}
    assert sources.find(Source(("set",), remotes, "")) is None
    folder = sources.get("set", Source(("set",), remotes, ""))
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()} == {"a.txt": "ay", "b.txt": "bee"}


def test_the_name_for_a_content_is_git_s() -> None:
    assert blob(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # from the book Pro Git, section 10.2


def test_what_cannot_be_had_is_refused_with_help_and_leaves_nothing(internet: dict[str, bytes], tmp_path: Path) -> None:
    internet["http://x/a"] = b"another"
    gone, other = "http://x/gone", "http://x/a"
    for remote, says in (
        (None, "a.txt does not exist."),
        (Remote(gone, blob(b"")), f"a.txt does not exist, and {gone} cannot be downloaded (<urlopen error no such page>)."),
        (Remote(other, blob(b"ay")), f"{other} no longer gives the published file (its checksum differs)."),
    ):
        with pytest.raises(UserError, match=f"{re.escape(says)} What helps: ask a friend$"):
            sources.get("set", Source(("set",), {"a.txt": remote}, "ask a friend"))
    assert not list(tmp_path.rglob("*.*"))
