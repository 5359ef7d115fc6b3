"""How far a long loop is: a bar on a terminal, and in a file or a pipe a line at least every 10 seconds."""

import sys
import time
from typing import TextIO

from tqdm import tqdm


class Progress:
    """tqdm's bar on stderr if that is a terminal, else plain lines there, without carriage returns.

    Args:
        total: number of units there are; `done` of them are done already.
        what: what is going on, say "evaluating"; "" = nothing is said of it.
        shown: False on all ranks but the first.
        delay: seconds before the bar appears.
    """

    EVERY = 8.0  # seconds between two lines, so that with a slow step between them it is no more than 10
    said = time.monotonic()  # when anything was last written, by whichever loop: they may be nested

    def __init__(
        self, total: int, unit: str = "step", what: str = "", *, done: int = 0, shown: bool = True, delay: float = 0.0
    ) -> None:
        self.total, self.unit, self.what, self.done = total, unit, what, done
        self.note = ""  # more to say, "epoch 0.4, loss 0.61"
        self.started = time.monotonic()
        self.bar = tqdm(
            total=total, initial=done, unit=unit, desc=what or None, delay=delay, leave=False, disable=None if shown else True
        )
        self.lines = shown and self.bar.disable

    def update(self) -> None:
        """One more unit is done."""
        self.done += 1
        self.bar.update()
        if self.lines and time.monotonic() - max(self.started, Progress.said) >= self.EVERY:
            parts = [f"{self.unit} {self.done} of {self.total}", self.note, f"{time.monotonic() - self.started:.0f} s"]
            self.write(f"{self.what + ': ' if self.what else ''}{', '.join(filter(None, parts))}", sys.stderr)

    def annotate(self, note: str) -> None:
        """Set what else is said with the number."""
        self.note = note
        self.bar.set_postfix_str(note, refresh=False)

    def write(self, text: str, file: TextIO | None = None) -> None:
        """Write a line above the bar, default to stdout, at once even into a pipe."""
        Progress.said = time.monotonic()
        self.bar.write(text, file=file or sys.stdout)
        (file or sys.stdout).flush()

    def close(self) -> None:
        """Remove the bar."""
        self.bar.close()
