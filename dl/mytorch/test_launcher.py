"""What `launch` makes of a command line, of errors, of several processes."""

import errno
import io
import os
import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch import distributed, launch, launcher
from dl.mytorch.config import TrainConfig, UserError


@dataclass(frozen=True)
class Config(TrainConfig):
    out: str = "runs/test"
    data: str = "numbers"


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_launch_gives_main_its_config_and_returns_its_result() -> None:
    assert launch(lambda config: (config.epochs, "done"), Config, ["--epochs", "7"]) == (7, "done")


def ending(error: BaseException, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[Any, str]:
    """Exit status and stderr of a `main` that raises `error`."""

    def main(config: Config) -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        launch(main, Config, flags)
    captured = capsys.readouterr()
    assert captured.out == ""
    return stopped.value.code, captured.err


def test_what_a_person_can_mend_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(UserError("say --data mnist"), capsys) == (1, "error: say --data mnist\n")


def test_a_last_batch_of_one_pixel_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="channel") as error:
        nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))
    status, text = ending(error.value, capsys)
    assert status == 1 and re.fullmatch("error: batch norm cannot learn from one image .* or a --batch-size.*\n", text)


def test_ctrl_c_is_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    status, text = ending(KeyboardInterrupt(), capsys)
    assert status == 130 and text.startswith("error: interrupted") and text.count("\n") == 1


def test_files_that_cannot_be_used_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/root/x")
    assert ending(denied, capsys) == (1, "error: Permission denied: /root/x\n")
    full = OSError(errno.ENOSPC, "No space left on device")
    assert ending(full, capsys) == (1, "error: No space left on device: runs/test\n")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] data. DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("can't start new thread"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_too_little_memory_is_one_line_that_helps(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    status, text = ending(error, capsys)
    assert status == 1 and text.startswith("error: out of memory: halve --batch-size") and text.count("\n") == 1


def test_too_many_open_files_is_one_line_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    by_torch = RuntimeError("Too many open files. Communication with the workers is no longer possible. Please\nincrease")
    for error in (by_torch, OSError(errno.EMFILE, "Too many open files", "x.png")):
        status, text = ending(error, capsys)
        assert status == 1 and "ulimit -n 4096" in text and text.count("\n") == 1


def test_a_worker_that_died_is_one_line_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    died = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ...\nmore")
    # What this process reads from it was cut, or is no longer there.
    cut = [ConnectionResetError(104, "Connection reset by peer"), EOFError(), FileNotFoundError(2, "No such file or directory")]
    for error, words in ((died, "killed by signal: Bus error"), *((each, "a DataLoader worker was killed") for each in cut)):
        status, text = ending(error, capsys, "--num-workers=2")
        assert status == 1 and words in text and "/dev/shm" in text and text.count("\n") == 1


def test_a_silent_rank_and_one_that_stopped_are_told_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation")
    stopped = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    config = Config()
    assert launcher._line(silent, config) is None  # alone, it is a bug
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "has not answered for 600 s" in str(launcher._line(silent, config))
    assert "another rank has stopped; its own line says why" in str(launcher._line(stopped, config))


def test_what_a_terminal_lacks_is_shown_as_an_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    launch(lambda config: print("\u732b", flush=True), Config, [])
    assert shown.buffer.getvalue() == b"\\u732b\n"


def test_what_cannot_be_deterministic_is_one_line_with_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Config) -> None:
        raise RuntimeError("put_ does not have a deterministic implementation, but you set 'torch.use_deterministic...")

    with pytest.raises(SystemExit) as stopped:
        launch(main, Config, ["--deterministic"])
    line = (
        "error: --deterministic: put_ does not have a deterministic implementation; leave the flag out, or take --device cpu\n"
    )
    assert stopped.value.code == 1 and capsys.readouterr().err == line


def test_a_layer_that_the_processor_cannot_compute_in_bf16_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Config) -> None:
        raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")

    with pytest.raises(SystemExit) as stopped:
        launch(main, Config, ["--precision", "bf16"])
    text = capsys.readouterr().err
    assert stopped.value.code == 1 and "--precision auto or fp32" in text and text.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug"), ValueError("a bug"), OSError("a bug"), SystemExit(130)])
def test_anything_else_keeps_its_traceback(error: BaseException) -> None:
    def main(config: Config) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        launch(main, Config, [])
    assert raised.value is error


def test_several_processes_without_parallel_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")

    def main(config: Config) -> None:
        raise AssertionError("two processes would write one run")

    with pytest.raises(SystemExit) as stopped:
        launch(main, Config, ["--parallel", "none"])
    assert stopped.value.code == 1
    text = capsys.readouterr().err
    assert text.startswith("[rank 1] error: ") and "--parallel ddp" in text and text.count("\n") == 1


@pytest.mark.parametrize(("system", "value"), [("win32", "0"), ("linux", None)])
def test_windows_ranks_meet_without_libuv_which_torch_lacks_there(
    system: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"USE_LIBUV={os.environ.get('USE_LIBUV')}")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("USE_LIBUV", "")  # so that what is set here is undone
    monkeypatch.delenv("USE_LIBUV")
    monkeypatch.setattr(distributed.dist, "init_process_group", meet)
    monkeypatch.setattr("sys.platform", system)
    with pytest.raises(UserError, match=f"USE_LIBUV={value}"):
        with launcher._process_group(Config(parallel="ddp", device="cpu")):
            pass
