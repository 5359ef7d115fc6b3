"""What commands of models share: how numbers are checked, a run's network is loaded, and the one rule for how they end."""

import sys
from pathlib import Path
from typing import Callable

import torch
from torch import nn

from dl.cli import pipe
from dl.mytorch.checkpoint import load_weights
from dl.mytorch.config import UserError
from dl.mytorch.introspect import without_values
from dl.mytorch.system import escape_output

SEEDS = (0, 2**32 - 1)


def check(flag: str, value: int | None, least: int, most: int) -> None:
    """Raise `UserError` for a value outside its range; None, for a flag that was not given, is fine."""
    if value is not None and not least <= value <= most:
        raise UserError(f"{flag} has to be from {least:,} to {most:,}; got {value}")


def load_best(make: Callable[[], nn.Module], run: Path) -> nn.Module:
    """Return the network that `make` builds by a run's config.json, with the weights of its best.pt, in evaluation mode.

    Raises `UserError` if they do not belong together, before a network that is far larger than its weights takes memory.
    """
    path = run / "best.pt"
    with without_values():
        wanted = sum(parameter.nbytes for parameter in make().parameters())
    found = sum(part.stat().st_size for part in (path, *path.rglob("*")))
    if wanted > 2 * found + 2**26:
        raise UserError(f"{run / 'config.json'} is of a network of {wanted:,} bytes, best.pt has {found:,}: not of one run")
    return load_weights(make(), path).eval()


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
