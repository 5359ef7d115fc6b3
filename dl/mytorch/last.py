"""last.pt of a run: all that its next step depends on, committed once its shards are on disk, with the one before beside it."""

import contextlib
import math
import os
import shutil
from concurrent.futures import Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator

import torch

from dl.mytorch import checkpoint
from dl.mytorch.config import UserError
from dl.mytorch.distributed import is_main
from dl.mytorch.logger import History, read_history
from dl.mytorch.state import check_position

if TYPE_CHECKING:
    from dl.mytorch.trainer import Trainer


class LastCheckpoint:
    """The newest saved state of the run in `out`; `pending` is one that is not yet in last.pt, with the writing of its shards.

    `committed` is called with each state once it is in last.pt.
    """

    def __init__(self, out: Path, committed: Callable[[dict[str, Any]], None]) -> None:
        self.out, self.path, self.committed = out, out / "last.pt", committed
        self.pending: tuple[dict[str, Any], Future | None] | None = None

    def save(self, trainer: "Trainer") -> None:
        """Save the state of a run between two steps; weights of a large model beside it, in shards."""
        from dl.mytorch import gathering  # of several ranks

        self.commit(block=True)  # the state before, if its shards are still being written
        step = trainer.step
        captured, writing = checkpoint.capture(self.out / f"shards-{step.steps_done}", step.model, step.optimizers, step.ema)
        state = {
            **captured,
            "train_sums": step.train_metrics.state(),
            "logged": trainer.logged,
            "task": gathering.gather_rows(trainer.task.state()),
            "own": trainer.task.own_state(),
            "position": (step.steps_done, trainer.epoch, trainer.batch),
            "length": (trainer.steps_per_epoch, trainer.total_steps),
            "history": list(trainer.history),
            "best": trainer.best,
        }
        self.pending = (state, writing)
        self.commit(block=False)

    def restore(self, trainer: "Trainer") -> None:
        """Put back what `save` wrote. Raises `UserError` if it cannot be, and says what helps."""
        from dl.mytorch import gathering

        with self.read() as path:
            step, monitor, length = trainer.step, trainer.task.monitor, (trainer.steps_per_epoch, trainer.total_steps)
            state = checkpoint.load_state(path, mapped=step.placement.mapped)
            check_position(state, length, trainer.config.accumulate, path)
            checkpoint.restore(state, path, step.model, step.optimizers, step.ema)
            step.train_metrics.load_state(state["train_sums"])
            trainer.logged = tuple(state.get("logged", trainer.logged))
            trainer.task.load_state(gathering.own_rows(state["task"]))
            trainer.task.load_own_state(state.get("own", {}))
            step.steps_done, trainer.epoch, trainer.batch = state["position"]
            trainer.history = History.of(state["history"], str(path))
            best = trainer.history.best(monitor)
            trainer.best = math.inf if best is None else best["val"][monitor]
            if trainer.best != state["best"]:
                raise UserError(f"{path} is damaged: its best {monitor} is not that of its history")
            if step.steps_done == trainer.total_steps and (self.out / "history.json").exists():
                trainer.history = read_history(self.out / "history.json")  # the test may be in it already

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
                helps = f"rename {before.name} to {path.name} to resume from the save before, or " if before.exists() else ""
                reason = f"{reason}. What helps: {helps}--fresh starts the run over"
            raise UserError(reason) from None
