"""Runs of ranks that share weights, of which one is killed ten times: the restart ends as the undisturbed run. Slow tier."""

import multiprocessing
import os
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dl.mytorch import checkpoint
from dl.test_shared_passes import COPIES, TENSOR, assert_same_state, train

pytestmark = pytest.mark.slow

STEPS, KILLS = 40, 10
PATIENCE = 60  # seconds in which ranks begin, and end


def run_rank(rank: int, ranks: int, out: Path, life: int, flags: dict[str, Any]) -> None:
    """Train, or train on, with a save of shards after each step."""
    torch.set_num_threads(1)
    checkpoint.LARGE = 0
    sys.stdout = open("/dev/null", "w", encoding="utf-8")
    sys.stderr = open(out.with_name(f"{out.name}-errors-{life}-{rank}"), "w", encoding="utf-8")
    meeting = out.with_name(f"{out.name}-meeting-{life}").as_posix()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    train("GPT2", out, steps=STEPS, save_every=1, **flags)
    dist.barrier()
    dist.destroy_process_group()


def start(ranks: int, out: Path, life: int, flags: dict[str, Any]) -> list[BaseProcess]:
    """Begin the processes of one life: copies of one that has imported everything, where the system can copy."""
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["dl.test_shared_passes", "torch.distributed.fsdp", "torch.distributed.tensor.parallel"])
    processes = [context.Process(target=run_rank, args=(rank, ranks, out, life, flags), daemon=True) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess], patience: float) -> list[int | None]:
    """Return the exit statuses of ranks, after ending those that do not end by themselves, as torchrun does."""
    for end in (lambda process: None, lambda process: process.kill()):
        for process in processes:
            end(process)
            process.join(patience)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize(("ranks", "way"), [(2, TENSOR), (4, COPIES)], ids=["tp-2", "hsdp-2x2"])
def test_a_run_killed_ten_times_ends_as_the_undisturbed_one(tmp_path: Path, ranks: int, way: dict[str, Any]) -> None:
    whole, disturbed, draw = tmp_path / "whole", tmp_path / "disturbed", random.Random()
    processes, began = start(ranks, whole, 0, way), time.monotonic()
    while not (whole / "last.pt").exists() and time.monotonic() < began + PATIENCE:
        time.sleep(0.01)
    first_save = time.monotonic() - began
    assert finish(processes, PATIENCE) == [0] * ranks
    training = time.monotonic() - began - first_save
    steps = []  # where each kill met the run
    for life in range(KILLS):
        processes = start(ranks, disturbed, life, way)
        time.sleep(draw.uniform(0.5 * first_save, first_save + 1.5 * training / KILLS))
        draw.choice(processes).kill()
        assert set(finish(processes, 5)) != {0}
        steps.append(checkpoint.load(disturbed / "last.pt")["position"][0] if (disturbed / "last.pt").exists() else 0)
    print(f"last saves before the kills: steps {steps}; begins in {first_save:.1f} s, trains for {training:.1f} s")
    assert finish(start(ranks, disturbed, KILLS, way), PATIENCE) == [0] * ranks
    assert_same_state(whole, disturbed)
