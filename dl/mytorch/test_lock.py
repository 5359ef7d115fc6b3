"""A lock that one process holds, that is gone with it, and that names its holder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dl.mytorch import lock
from dl.mytorch.config import UserError
from dl.mytorch.lock import locked

HOLDER = """
import sys
from pathlib import Path
from dl.mytorch.lock import locked
with locked(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_process_may_hold_a_lock_again_after_it_let_go(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "run.lock", "busy"):
            assert (tmp_path / "run.lock").read_text(encoding="utf-8") == f"{os.getpid()}\n"


@pytest.mark.parametrize(("content", "holder"), [(b"123\n", r" \(process 123\)"), (b"", ""), (b"\xff" * 100, "")])
def test_a_lock_that_another_holds_is_a_line_that_names_it(
    content: bytes, holder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(*((lock.msvcrt, "locking") if sys.platform == "win32" else (lock.fcntl, "lockf")), held)
    (tmp_path / "run.lock").write_bytes(content)
    with pytest.raises(UserError, match=f"^it is busy{holder}; wait"), locked(tmp_path / "run.lock", "it is busy"):
        raise AssertionError("was let in")
    assert (tmp_path / "run.lock").read_bytes() == content


def test_a_file_system_without_locks_is_said_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(*((lock.msvcrt, "locking") if sys.platform == "win32" else (lock.fcntl, "lockf")), fails)
    with locked(tmp_path / "run.lock", "busy"):
        pass
    assert (
        capsys.readouterr().err
        == f"note: {tmp_path / 'run.lock'} cannot be locked (No locks available): start no second run there\n"
    )


def test_a_folder_or_a_link_to_itself_in_its_place_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("folder", "loop"):
        with pytest.raises(UserError, match=name), locked(tmp_path / name, "busy"):
            pass


@pytest.mark.slow
def test_a_lock_is_gone_with_its_process_also_after_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run.lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"busy \(process {holder.pid}\)"), locked(tmp_path / "run.lock", "busy"):
        pass
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run.lock", "busy"):
        pass
    child.communicate()
