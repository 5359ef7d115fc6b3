"""NOTICE.md knows every bundled file: data, weights, figures."""

import re
import subprocess
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def bundled(root: Path = ROOT) -> list[str]:
    """Return the tracked files below data/, and every other tracked file with a zero byte, as binary formats have."""
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=False)
    if answer.returncode:
        pytest.skip("no git repository")
    names = [name for name in answer.stdout.decode().split("\0") if name and (root / name).exists()]
    return [name for name in names if name.startswith("data/") or b"\0" in (root / name).read_bytes()]


def patterns(notice: str) -> list[str]:
    """Return the first cell of each row of the table."""
    return re.findall(r"^\| `([^`]+)` \|", notice, re.MULTILINE)


def unknown(files: Sequence[str], rows: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the files that no row names, and the rows that name no file."""
    files_left = [name for name in files if not any(fnmatchcase(name, row) for row in rows)]
    return files_left, [row for row in rows if not any(fnmatchcase(name, row) for name in files)]


def test_every_bundled_file_has_a_notice() -> None:
    assert unknown(bundled(), patterns((ROOT / "NOTICE.md").read_text(encoding="utf-8"))) == ([], [])


def test_a_file_without_a_notice_and_a_notice_without_a_file_are_found() -> None:
    rows = patterns("| files | x |\n|---|---|\n| `data/a/*` | y |\n| `dl/*.pt` | z |\n")
    assert unknown(["data/a/b.gz", "data/c.gz"], rows) == (["data/c.gz"], ["dl/*.pt"])
