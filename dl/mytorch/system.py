"""What Linux, macOS and Windows do in different ways. No other file of the core asks which of them runs it."""

import atexit
import contextlib
import ctypes
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def stop_signals() -> list[signal.Signals]:
    """Return the signals that ask a process to stop.

    SIGBREAK is Windows' alone: Ctrl-Break, a closed console, a shutdown. Nothing sends SIGTERM there.
    """
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


def peak_memory() -> int:
    """Return the largest number of bytes of memory that this process has held."""
    try:
        import resource
    except ImportError:  # Windows
        return _peak_working_set()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _peak_working_set() -> int:
    """The same by https://learn.microsoft.com/windows/win32/api/psapi/nf-psapi-getprocessmemoryinfo."""

    class Counters(ctypes.Structure):
        _fields_ = [
            ("cb", ctypes.c_uint32),
            ("PageFaultCount", ctypes.c_uint32),
            ("PeakWorkingSetSize", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        ]

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return counters.PeakWorkingSetSize


def processor_name() -> str:
    """Return what the maker calls the processor, as well as the system says it."""
    with contextlib.suppress(OSError):  # Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def return_freed_memory() -> None:
    """glibc keeps freed tensors of up to 32 MB for the next ones, and ends up with gaps of several blocks' size.

    Larger ones than 1 MiB get mappings of their own, which go when they are freed; other systems have no such call.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


def allocate(handle: int, size: int) -> None:
    """Give an empty open file its blocks, without which a mapped file may end in SIGBUS. `OSError` if the disk has no room."""
    if hasattr(os, "posix_fallocate"):
        if size:
            os.posix_fallocate(handle, 0, size)
        return
    zeros = bytes(2**20)  # macOS and Windows
    for start in range(0, size, len(zeros)):
        os.write(handle, zeros[: size - start])


def remove_when_closed(path: str) -> None:
    """Remove a file that is mapped: at once, or on Windows, which refuses, when Python ends."""
    try:
        os.unlink(path)
    except PermissionError:
        atexit.register(_remove, path)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
