"""What commands of models share: how numbers are checked, and the one rule for how they end."""

import sys
from typing import Callable

import torch

from dl.cli import pipe
from dl.mytorch.config import UserError
from dl.mytorch.system import escape_output

SEEDS = (0, 2**32 - 1)


def check(flag: str, value: int | None, least: int, most: int) -> None:
    """Raise `UserError` for a value outside its range; None, for a flag that was not given, is fine."""
    if value is not None and not least <= value <= most:
        raise UserError(f"{flag} has to be from {least:,} to {most:,}; got {value}")


def run(action: Callable[[], None]) -> int:
    """Call `action` and return the exit status of the command that it is.

    What the user can mend (`UserError` and other `ValueError`s, a file that is missing or cannot be read, too little memory) is
    one line on stderr and status 1; Ctrl-C is 130; a reader that has gone is no error. What the terminal's encoding lacks is
    printed as escapes.
    """
    escape_output()
    try:
        action()
        sys.stdout.flush()
    except BrokenPipeError:
        pipe.let_go()
    except (OSError, ValueError) as error:
        return _fail(str(error))
    except (MemoryError, torch.OutOfMemoryError):
        return _fail("out of memory")
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):
            raise
        return _fail("out of memory")
    except KeyboardInterrupt:
        print()
        return 130
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 1
