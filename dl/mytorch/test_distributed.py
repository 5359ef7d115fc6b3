"""One process: devices, randomness, signals, and what `launch` makes of errors. Two ranks are in test_two_ranks.py."""

import errno
import io
import os
import random
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dl.mytorch import distributed, testing
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.distributed import launch, rng_state, fork_rng, set_rng_state, catch_signals


@dataclass(frozen=True)
class Config(TrainConfig):
    out: str = "runs/test"
    data: str = "numbers"


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_auto_is_a_device_that_is_there() -> None:
    chosen = distributed.device("auto")
    assert torch.zeros(2, device=chosen).sum().item() == 0
    assert distributed.device() == chosen


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(1, True, "cuda:0"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_takes_the_fastest_kind(cuda: int, mps: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert distributed.device("auto") == torch.device(chosen)


def test_each_rank_has_the_cuda_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert distributed.device("cuda") == torch.device("cuda:3")
    assert distributed.device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "cuda:-1", "meta", "xpu", "hpu"])
def test_an_unknown_device_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}: no such device; say auto, cpu, cuda"):
        distributed.device(name)


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("mps", 0)])
def test_a_device_that_this_machine_lacks_is_refused(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=f"--device {name}: this machine has no .*--device auto"):
        distributed.device(name)


def test_batches_are_moved_and_only_images_get_their_channels_last() -> None:
    batch = {"images": torch.randn(2, 3, 4, 5), "labels": torch.tensor([0, 1])}
    for channels_last in (False, True):
        moved = distributed.to_device(batch, torch.device("cpu"), channels_last)
        assert all(torch.equal(moved[name], batch[name]) for name in batch)
        assert moved["images"].is_contiguous(memory_format=torch.channels_last) == channels_last
    assert batch["images"].is_contiguous()


# ---- one process is a world of its own -------------------------------------------------------------------------------


def test_alone_everything_is_the_identity() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    x, model = torch.arange(3.0), nn.BatchNorm1d(2)
    assert torch.equal(distributed.all_reduce_sum(x), x) and torch.equal(distributed.all_gather(x), x)
    assert distributed.gather_objects({"a": 1}) == [{"a": 1}]
    distributed.barrier()
    distributed.broadcast_buffers(model)


# ---- randomness ------------------------------------------------------------------------------------------------------


def draw() -> list[Any]:
    """From each generator, so that all of them move; the odd number of normals leaves one in store."""
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(3).tolist(), torch.rand(2).tolist()]


def test_one_seed_gives_one_sequence_in_every_generator() -> None:
    drawn = []
    for seed in (1, 2, 1):
        distributed.seed_everything(seed)
        drawn.append(draw())
    assert drawn[0] == drawn[2]
    assert all(a != b for a, b in zip(drawn[0], drawn[1]))


def test_generators_go_on_from_a_state_that_was_on_disk(tmp_path: Path) -> None:
    draw()
    torch.save(rng_state(), tmp_path / "rng.pt")
    expected = [draw(), draw()]
    set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert [draw(), draw()] == expected


def test_separate_randomness_is_the_same_each_time_and_takes_nothing_from_outside() -> None:
    before = rng_state()
    with fork_rng(7):
        first = draw()
    testing.assert_same_state(rng_state(), before, "randomness outside")
    draw()
    with fork_rng(7):
        assert draw() == first
    with fork_rng(8):
        assert draw() != first


def test_separate_randomness_is_given_back_also_after_an_error() -> None:
    before = rng_state()
    with pytest.raises(KeyError), fork_rng(7):
        draw()
        raise KeyError
    testing.assert_same_state(rng_state(), before, "randomness outside")


def test_the_generator_of_an_apple_gpu_is_part_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    put_back = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: torch.tensor([7]))
    monkeypatch.setattr(torch.mps, "set_rng_state", put_back.append)
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: None)
    with fork_rng(1):
        draw()
    assert put_back == [torch.tensor([7])]


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_interrupts(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        with catch_signals() as noted:
            assert noted == []
            signal.raise_signal(number)
            assert noted == [number]
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_are_put_back_afterwards() -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with catch_signals():
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] != before
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_than_the_main_one_notes_nothing_and_breaks_nothing() -> None:
    results = []

    def run() -> None:
        with catch_signals() as noted:
            results.append(noted)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [[]]


# ---- launch ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_launch_gives_main_its_config_and_returns_its_result() -> None:
    assert launch(lambda config: (config.epochs, "done"), Config, ["--epochs", "7"]) == (7, "done")


def ending(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """Exit status and stderr of a `main` that raises `error`."""

    def main(config: Config) -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        launch(main, Config, [])
    captured = capsys.readouterr()
    assert captured.out == ""
    return stopped.value.code, captured.err


def test_what_a_person_can_mend_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(UserError("say --data mnist"), capsys) == (1, "error: say --data mnist\n")


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
    status, text = ending(died, capsys)
    assert status == 1 and "killed by signal: Bus error" in text and "/dev/shm" in text and text.count("\n") == 1


def test_a_silent_rank_and_one_that_stopped_are_told_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation")
    stopped = RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    config = Config()
    assert distributed._line(silent, config) is None  # alone, it is a bug
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "has not answered for 600 s" in str(distributed._line(silent, config))
    assert "another rank has stopped; its own line says why" in str(distributed._line(stopped, config))


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
    line = "error: --deterministic: put_ does not have a deterministic implementation; leave the flag out, or take --device cpu\n"
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
        with distributed._process_group(Config(parallel="ddp", device="cpu")):
            pass


@pytest.mark.gpu
def test_cuda_randomness_is_part_of_the_state() -> None:
    before = rng_state()
    expected = torch.rand(3, device="cuda")
    set_rng_state(before)
    with fork_rng(5):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), expected)
