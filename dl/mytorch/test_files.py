"""Tests of files.py: a file is complete or absent, and nothing that is read is trusted."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dl.mytorch import files
from dl.mytorch.config import UserError
from dl.mytorch.files import (
    atomic_write,
    check,
    read_json,
    recorded_write,
    regular_file,
    verify,
    write_json,
    write_recorded_json,
)
from dl.mytorch.testing.runs import forget


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, TypeError, MemoryError, RuntimeError("DataLoader worker (pid 1) is killed")]
)
def test_whatever_stops_a_write_leaves_the_old_file_alone(error: Any, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error) if isinstance(error, BaseException) else error):
        with atomic_write(path) as file:
            file.write(b"new")
            raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as file:
        file.write(b"half")
        assert not path.exists()
    assert path.read_bytes() == b"half"


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *args, real=real, name=name: (done.append(name), real(*args)))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"x" * 100_000)
    assert done[:2] == ["fsync", "replace"]


def test_json_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json({"b": [1, 2.5], "a": None}, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": [1, 2.5], "a": None}
    with pytest.raises(TypeError):
        write_json({"b": object()}, path)
    assert json.loads(path.read_text(encoding="utf-8"))["b"] == [1, 2.5]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"b": float("nan")}, path)
    assert os.listdir(tmp_path) == ["value.json"]


def test_two_writers_at_once_leave_one_complete_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as one, atomic_write(path) as two:
        one.write(b"1" * 10)
        two.write(b"2" * 20)
    assert path.read_bytes() == b"1" * 10  # the last that ended
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("1", encoding="utf-8")
    (tmp_path / "link").symlink_to("file")
    assert read_json(tmp_path / "link", int) == 1
    said = {"folder": "a folder, not a file", "pipe": "not a file", "loop": "cannot be read", "none": "does not exist"}
    for name, message in said.items():
        with pytest.raises(UserError, match=message):
            read_json(tmp_path / name)
    with pytest.raises(UserError, match="not a file"):
        regular_file("/dev/null")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[1e999]", "1e999 is no number"),
        (b"[" * 100_000, "no valid JSON"),
        (b"1" * 5_000, "no valid JSON"),
        (b"1" * 20_000, "too large"),
    ],
)
def test_what_is_no_json_is_one_line_with_the_name(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "value.json").write_bytes(content)
    with pytest.raises(UserError, match=f"value.json .*{message}") as caught:
        read_json(tmp_path / "value.json", limit=10_000 if message == "too large" else 2**20)
    assert "\n" not in str(caught.value)


SCHEMA = {"step": int, "loss": float, "names": [str], "data?": (str, None), "means": {str: float}}
VALUE = {"step": 3, "loss": 1, "names": ["a"], "means": {"x": 0.5}, "unknown": [[]]}


def test_a_value_of_the_schema_passes_unchanged() -> None:
    assert check(VALUE, SCHEMA, "it") is VALUE
    check(VALUE | {"data": None}, SCHEMA, "it")


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("step", 1.0, "it: step has to be a whole number; got 1.0"),
        ("step", True, "it: step has to be a whole number; got True"),
        ("step", 2**63, "it: step has to be a whole number"),
        ("loss", float("nan"), "it: loss has to be a finite number; got nan"),
        pytest.param("loss", 10**309, "it: loss has to be a finite number", id="huge"),
        ("names", ["a", 1], r"it: names\[1\] has to be text; got 1"),
        ("data", 1, "it: data has to be text or null; got 1"),
        ("means", {"x": "1"}, "it: means.x has to be a finite number"),
        ("means", [], "it: means has to be an object"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(VALUE | {field: value}, SCHEMA, "it")


def test_a_missing_field_is_named() -> None:
    with pytest.raises(UserError, match="it lacks the field a.b"):
        check({"a": {}}, {"a": {"b": int}}, "it")


def test_a_changed_file_is_refused_until_its_entry_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_recorded_json({"a": 1}, path)
    assert verify(path)
    path.write_bytes(path.read_bytes().replace(b"1", b"2"))
    with pytest.raises(UserError, match="value.json was changed since it was written.*delete its entry in .*checksums.json"):
        verify(path)
    forget(path)
    assert not verify(path)


@pytest.mark.parametrize(("inodes", "left", "out"), [(1000, 0, True), (1000, 1, False), (0, 0, False)])  # 0: not counted
def test_a_disk_that_is_out_of_inodes_says_so(
    inodes: int, left: int, out: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_files=inodes, f_favail=left), raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=900e6))
    monkeypatch.setattr(tempfile, "mkstemp", full)
    said = r"900.0 MB free there, but it is out of inodes: delete some files\)" if out else r"900.0 MB free there\)"
    with pytest.raises(UserError, match=f"cannot write .*a.json: No space left on device \\({said}$"):
        write_json({}, tmp_path / "a.json")


def test_killed_before_the_rename_the_file_before_is_still_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    for content in (b"1", b"2"):
        with recorded_write(path) as file:
            file.write(content)
    real = os.replace

    def killed(source: str, target: Path) -> None:
        if Path(target) == path:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), recorded_write(path) as file:
            file.write(b"3")
    assert path.read_bytes() == b"2" and verify(path)
