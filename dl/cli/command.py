"""What makes a function a command: it parses, and ends by the one rule for errors. This imports no torch."""

import argparse
import functools
import os
import sys
from typing import Any, Callable, Sequence

from dl import escape_output, explained, print_error

Options = argparse.Namespace
SEEDS = (0, 2**32 - 1)


def command(parse: Callable[[Sequence[str] | None], Options]) -> Callable[[Callable[[Options], Any]], Callable[..., int]]:
    """Make a function of the options that `parse(argv)` returns the `main` of a command: argv -> exit status, see `run`."""

    def decorate(act: Callable[[Options], Any]) -> Callable[..., int]:
        @functools.wraps(act)
        def main(argv: Sequence[str] | None = None) -> int:
            options = parse(argv)
            return run(lambda: act(options))

        return main

    return decorate


def run(action: Callable[[], int | None]) -> int:
    """Call `action` and return the exit status of the command that it is; None is 0.

    What the user can fix (`UserError`, a file that is missing or cannot be read, too little memory) is one line on stderr and
    status 1, an unknown name status 2; Ctrl-C is 130; a reader that has gone is no error. Any other exception is a bug
    and keeps its traceback. What the terminal's encoding lacks is printed as escapes.
    """
    escape_output()
    try:
        status = action() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `python -m dl list | head` has read enough
        silence_broken_pipe()
        return 0
    except KeyboardInterrupt:
        print()
        return 130
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        print_error(line)
        return 2 if isinstance(error, LookupError) else 1


def _line(error: Exception) -> str | None:
    """Return what helps against an error that the user can fix, in one line; None for any other error."""
    catalogue = sys.modules.get("dl.cli.catalogue")  # if nobody has imported it, it has raised nothing
    if isinstance(error, OSError) or (catalogue and isinstance(error, catalogue.UnknownName)):
        return explained(error) or str(error)
    return explained(error)


def silence_broken_pipe() -> None:
    """After a `BrokenPipeError` of the standard output: what is still to be written goes nowhere.

    Python would else complain once more at its end.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_range(flag: str, value: int | None, least: int, most: int) -> None:
    """Raise `UserError` for a value outside its range; None, for a flag that was not given, is fine."""
    from dl.mytorch.config import UserError  # not above: it brings torch along

    if value is not None and not least <= value <= most:
        raise UserError(f"{flag} has to be from {least:,} to {most:,}; got {value}")
