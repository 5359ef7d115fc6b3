"""Fixtures of the core's own tests."""

import subprocess
from pathlib import Path
from typing import Iterator

import pytest

from dl.mytorch.testing.processes import RECIPE


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(RECIPE, encoding="utf-8")
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 64 kB: room for the first files of a run, not for its checkpoint."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system takes root on Linux")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)
