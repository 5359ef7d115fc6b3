"""What a worker process gets and which signals it heeds. That its batches are right is in test_loader.py."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dl.mytorch import testing
from dl.mytorch.data import Loader, workers


class Sentences(torch.utils.data.Dataset):
    """Many small tensors, as a set of sentences has."""

    def __init__(self, count: int) -> None:
        self.ids = [torch.full((3,), i) for i in range(count)]
        self.other = (torch.ones(2, dtype=torch.bfloat16), torch.arange(6).view(2, 3).T, torch.zeros(0), "text")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"ids": self.ids[i], "process": torch.tensor(os.getpid())}


def test_a_data_set_of_many_tensors_is_sent_without_a_file_for_each() -> None:
    data = Sentences(5000)
    open_files = Path("/proc/self/fd")
    gc.collect()  # else what tests before left open may be closed while this one counts
    before = len(list(open_files.iterdir())) if open_files.exists() else 0
    packed = workers.pack(data.__dict__)
    got = workers.unpack(Sentences, packed)
    assert not open_files.exists() or len(list(open_files.iterdir())) == before
    testing.assert_same_state(got.__dict__, data.__dict__, "data")
    assert len(packed) < 5000 * 200


def test_workers_stay_for_the_next_epoch_and_two_readers_do_not_mix() -> None:
    loader = Loader(Sentences(6), 2, shuffle=True, num_workers=1)
    alone = Loader(Sentences(6), 2, shuffle=True)
    served = [{int(pid) for batch in loader.batches(epoch) for pid in batch["process"]} for epoch in (0, 1)]
    assert served[0] == served[1] and os.getpid() not in served[0]
    first, second = loader.batches(2), loader.batches(3)
    pairs = [(next(first), next(second)) for _ in range(3)]
    for epoch, batches in zip((2, 3), zip(*pairs)):
        assert [b["ids"].tolist() for b in batches] == [b["ids"].tolist() for b in alone.batches(epoch)]
    next(loader.batches(4))  # left in the middle
    assert [b["ids"].tolist() for b in loader.batches(5)] == [b["ids"].tolist() for b in alone.batches(5)]


def test_a_worker_outlives_the_signals_that_stop_a_run_until_the_main_process_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    ended = workers.outlive_signals().args[0]
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        workers.outlive_signals()(0)
        for number in before:
            signal.raise_signal(number)
        assert exits == []
        ended.value = True
        signal.raise_signal(signal.SIGTERM)
        assert exits == [0]
    finally:
        ended.value = False
        for number, handler in before.items():
            signal.signal(number, handler)


PROGRAM = """
import multiprocessing, resource, sys
import torch
from dl.mytorch.data import Loader
from dl.mytorch.data.test_workers import Sentences

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    loader, alone = (Loader(Sentences(20_000), 4000, shuffle=True, num_workers=n) for n in (2, 0))
    for epoch in range(3):
        for got, right in zip(loader.batches(epoch), alone.batches(epoch), strict=True):
            assert torch.equal(got["ids"], right["ids"])
    sys.held = left = loader.batches(3), next(loader.batches(3))  # alive at the end
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])  # of Python 3.11 on Linux, of 3.14, of macOS and Windows
def test_every_way_to_start_workers_does_with_256_open_files(method: str, tmp_path: Path) -> None:
    if not hasattr(os, "fork"):
        pytest.skip("Windows has one way to start processes")
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    subprocess.run([sys.executable, str(tmp_path / "program.py"), method], check=True, timeout=300)
