"""last.pt of a run: committed once its shards are on disk, with the one before beside it."""

import contextlib
import os
import shutil
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, Callable, Iterator

import torch

from dl.mytorch import checkpoint
from dl.mytorch.config import UserError
from dl.mytorch.distributed import is_main


class LastCheckpoint:
    """The newest saved state of the run in `out`; `pending` is one that is not yet in last.pt, with the writing of its shards.

    `committed` is called with each state once it is in last.pt.
    """

    def __init__(self, out: Path, committed: Callable[[dict[str, Any]], None]) -> None:
        self.out, self.path, self.committed = out, out / "last.pt", committed
        self.pending: tuple[dict[str, Any], Future | None] | None = None

    def commit(self, block: bool) -> None:
        """Write the pending state, if there is one, once its shards are on disk; wait for them if `block`, else do nothing yet.

        Raises `UserError` if the shards could not be written.
        """
        if self.pending is None:
            return
        state, writing = self.pending
        shards = None
        if writing is not None:
            if not (block or writing.done()):
                return
            shards = self.out / state["shards"]
            writing.result()
        self.pending = None
        if is_main():
            if shards is None:
                self._link_previous()
            checkpoint.save(state, self.path)
            for old in set(self.out.glob("shards-[0-9]*")) - {shards}:
                shutil.rmtree(old)
        self.committed(state)

    def settle(self) -> None:
        """Wait until no shard is being written any more, whatever becomes of it."""
        if self.pending is not None and self.pending[1] is not None:
            wait([self.pending[1]])

    def _link_previous(self) -> None:
        """Let the last.pt of the save before stay as last-before.pt, where files can have two names."""
        before = self.out / "last-before.pt"
        with contextlib.suppress(OSError):
            before.unlink(missing_ok=True)
            os.link(self.path, before)

    @contextlib.contextmanager
    def read(self) -> Iterator[Path]:
        """Turn what goes wrong while last.pt is restored into a `UserError` that says what helps."""
        path, before = self.path, self.out / "last-before.pt"
        try:
            yield path
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, (torch.OutOfMemoryError, torch.distributed.DistError)):
                raise
            reason = str(error)
            if not isinstance(error, UserError):  # somebody else's value met code that did not expect it
                reason = f"{path} is damaged, or not of this run ({type(error).__name__}: {reason.partition(chr(10))[0][:100]})"
            if "--fresh" not in reason:
                helps = f"rename {before.name} to {path.name} to go on from the save before, or " if before.exists() else ""
                reason = f"{reason}. What helps: {helps}--fresh starts the run over"
            raise UserError(reason) from None
