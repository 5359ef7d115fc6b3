"""What Linux, macOS and Windows do in different ways, beside locks (lock.py) and memory (mapped.py, large/offloading.py)."""

import ctypes
import signal
import sys


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
    """Return the same by https://learn.microsoft.com/windows/win32/api/psapi/nf-psapi-getprocessmemoryinfo."""

    class Counters(ctypes.Structure):
        _fields_ = [("cb", ctypes.c_uint32), ("PageFaultCount", ctypes.c_uint32)]
        _fields_ += [("PeakWorkingSetSize", ctypes.c_size_t), ("others", ctypes.c_size_t * 7)]

    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return counters.PeakWorkingSetSize
