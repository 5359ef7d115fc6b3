"""TensorBoard's files, written by the calling thread.

torch's SummaryWriter has a thread for it: when the disk is full, that prints a traceback of its own beside the error of the
run, and where memory is short, its start may hang.
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from torch import Tensor


class Events:
    """One file of events in `folder`, for one run on TensorBoard's charts; its parent's parent has to be there.

    Points of an earlier file from step `purge_step` on are replaced. Raises `OSError` when it cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog  # these take half a second
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        self.file = open(
            folder / f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}", "wb", buffering=0
        )
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Add a point of a curve."""
        from torch.utils.tensorboard.summary import scalar

        self._write(step=step, summary=scalar(name, value))

    def add_image(self, name: str, image: Tensor, step: int) -> None:
        """Add an image (C, H, W) of numbers in [0, 1]."""
        from torch.utils.tensorboard.summary import image as summary

        self._write(step=step, summary=summary(name, image, dataformats="CHW"))

    def add_text(self, name: str, value: str, step: int) -> None:
        """Add a text, read as Markdown."""
        from torch.utils.tensorboard.summary import text

        self._write(step=step, summary=text(name, value))

    def add_hparams(self, flags: dict[str, Any], results: dict[str, float]) -> None:
        """Add a line of the table of runs: what was asked for, and what came out."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(flags, results):
            self._write(summary=summary)
        for name, value in results.items():
            self.add_scalar(name, value, 0)

    def close(self) -> None:
        """Close the file; all is in it already."""
        self.file.close()
