"""Standard output that is a closed pipe, as in `python -m dl list | head`, or a terminal that is not UTF-8: no error."""

import os
import sys


def let_go() -> None:
    """After a `BrokenPipeError` of the standard output: what is still to be written goes nowhere.

    Python would else complain once more at its end.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def escape_output() -> None:
    """Print as escapes (\\xb1) what the terminal's encoding lacks. Without torch, unlike the same of dl/mytorch/system.py."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
