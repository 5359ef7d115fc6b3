"""What other systems do, simulated: a module that is missing, a library of Windows, a disk without room."""

import ctypes
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dl import escape_output
from dl.mytorch import mapped, system


def test_the_peak_of_memory_is_in_bytes() -> None:
    held = torch.ones(2**22)  # in float32
    assert system.peak_memory() >= held.nbytes


def test_without_the_module_resource_windows_is_asked_for_the_peak_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kernel:
        """Fills PROCESS_MEMORY_COUNTERS as Windows does: PeakWorkingSetSize is its third field."""

        @staticmethod
        def GetCurrentProcess() -> int:
            return -1

        @staticmethod
        def K32GetProcessMemoryInfo(process: int, counters: Any, size: int) -> None:
            assert (process, size) == (-1, 8 + 8 * ctypes.sizeof(ctypes.c_size_t))
            ctypes.c_size_t.from_buffer(counters._obj, 8).value = 123_456_789

    for function in (Kernel.GetCurrentProcess, Kernel.K32GetProcessMemoryInfo):
        monkeypatch.setattr(function, "restype", None, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(ctypes, "WinDLL", lambda name: Kernel, raising=False)
    assert system.peak_memory() == 123_456_789


@pytest.mark.parametrize("reserves", [True, False])
def test_a_mapped_file_has_its_blocks(reserves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not reserves:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with open(tmp_path / "file", "wb") as file:
        mapped.allocate(file.fileno(), 3 * 2**20 + 5)
    found = (tmp_path / "file").stat()
    assert found.st_size == 3 * 2**20 + 5 and found.st_blocks * 512 >= 3 * 2**20
    assert mapped.mmap_zeros((0, 4), torch.float32, tmp_path).shape == (0, 4)


def test_what_asks_to_stop_includes_ctrl_break_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "SIGBREAK", 21, raising=False)
    assert system.stop_signals() == [signal.SIGINT, signal.SIGTERM, 21]


def test_a_terminal_that_is_not_utf_8_shows_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # as in a notebook: nothing to set
    escape_output()
    print("\u00b1 \u732b", flush=True)
    assert shown.buffer.getvalue() == b"\\xb1 \\u732b\n"


def test_closed_output_goes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    escape_output()
    print("nobody reads this", flush=True)
    sys.stdout.close()
