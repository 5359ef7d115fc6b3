"""Progress on a terminal and in a pipe. Clocks are set by hand."""

import io
import sys
from typing import Iterator

import pytest

from dl.mytorch import progress
from dl.mytorch.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The present time, to be moved by tests."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Progress, "said", 1000.0)
    yield now


def test_a_pipe_gets_a_line_at_least_every_10_seconds_and_no_carriage_return(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Progress(940, done=100)
    for _ in range(25):
        clock[0] += 1
        shown.annotate(f"epoch {shown.done / 100:.1f}, loss 0.61")
        shown.update()
    shown.close()
    captured = capsys.readouterr()
    lines = [f"step {100 + n} of 940, epoch {1 + (n - 1) / 100:.1f}, loss 0.61, {n} s\n" for n in (8, 16, 24)]
    assert captured.err == "".join(lines)
    assert captured.out == ""


def test_what_was_said_by_another_loop_counts(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    training, evaluating = Progress(9), Progress(40, "batch", "evaluating")
    clock[0] += 11
    training.write("epoch 1")
    evaluating.update()
    Progress(3).update()  # has not been silent for long itself
    clock[0] += 11
    evaluating.update()
    training.update()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("epoch 1\n", "evaluating: batch 2 of 40, 22 s\n")


def test_other_ranks_say_nothing(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress(9, shown=False)
    clock[0] += 99
    shown.update()
    assert "".join(capsys.readouterr()) == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(3, "shard", "indexing")
    progress.update()
    progress.close()
    assert "\rindexing:" in sys.stderr.getvalue() and "0/3" in sys.stderr.getvalue()


def test_a_line_reaches_a_pipe_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="utf-8"))
    Progress(3).write("epoch 1")
    assert pipe.getvalue() == b"epoch 1\n"
