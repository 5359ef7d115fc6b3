"""One process: devices, randomness, signals. Two ranks are in test_two_ranks.py."""

import random
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dl.mytorch import distributed, gathering, testing
from dl.mytorch.config import UserError
from dl.mytorch.distributed import catch_signals, fork_rng, rng_state, set_rng_state

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
    assert torch.equal(distributed.all_reduce_sum(x), x) and torch.equal(gathering.all_gather(x), x)
    assert distributed.gather_objects({"a": 1}) == [{"a": 1}]
    distributed.barrier()
    distributed.broadcast_buffers(model)


def test_ranks_of_one_forward_pass_read_the_same_data_and_count_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six ranks in threes: two parts of the data."""
    places = []
    try:
        distributed.set_tensor_size(3)
        monkeypatch.setattr(distributed, "world_size", lambda: 6)
        monkeypatch.setattr(distributed, "on_backend", lambda x: x)
        monkeypatch.setattr(distributed.dist, "all_reduce", lambda total: total.mul_(3).add_(3))  # 1 on each of the others
        monkeypatch.setattr(distributed, "gather_objects", lambda value: list("aaabbb"))
        for rank in range(6):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            places.append((distributed.data_rank(), distributed.data_world_size()))
        assert distributed.all_reduce_sum(torch.tensor([0.5, 7.0])).tolist() == [1.5, 8.0]
        assert distributed.all_reduce_sum(torch.tensor(2**53 + 1)).item() == 2**53 + 2  # integers stay integers
        assert distributed.gather_parts("a") == ["a", "b"]
    finally:
        distributed.set_tensor_size(1)
    assert places == [(0, 2)] * 3 + [(1, 2)] * 3


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


def test_a_state_of_version_0_1_had_lists_and_is_put_back_too() -> None:
    state = rng_state()
    expected = [draw(), draw()]
    (version, words, gauss), (name, keys, *rest) = state["python"], state["numpy"]
    set_rng_state({**state, "python": (version, tuple(words.tolist()), gauss), "numpy": [name, keys.tolist(), *rest]})
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


@pytest.mark.gpu
def test_cuda_randomness_is_part_of_the_state() -> None:
    before = rng_state()
    expected = torch.rand(3, device="cuda")
    set_rng_state(before)
    with fork_rng(5):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), expected)
