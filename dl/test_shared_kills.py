"""Ranks that share weights, killed at random moments: the restart ends with the bits of the undisturbed run. Slow tier."""

import hashlib
import multiprocessing
import os
import pickle
import random
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from dl.modules.GPT.GPT2.model import build
from dl.mytorch import TrainConfig, Trainer, checkpoint, seed_everything, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader, Splits
from dl.mytorch.files import read_json, write_json
from dl.mytorch.optim import adamw, constant
from dl.mytorch.testing.pickles import Malicious
from dl.mytorch.text.tasks import LanguageModeling

pytestmark = pytest.mark.slow

STEPS, KILLS = 24, 3  # 40 and 10 were tried as well
TIMEOUT = 120  # seconds in which ranks begin, and end
WAYS: list[tuple[int, dict[str, Any]]] = [(2, {"parallel": "tp"}), (4, {"parallel": "hsdp", "shard_size": 2})]


def train(out: Path, **flags: Any) -> None:
    """The run `out`: a GPT-2 with dropout, saved as shards after each step."""
    seed_everything(0)
    model = build("tiny", dim=16, depth=2, num_heads=4, dropout=0.1).double()
    ids = torch.randint(11, (27, 17), generator=torch.Generator().manual_seed(0))
    text = {"tokens": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    flags |= {"steps": STEPS, "batch_size": 8, "grad_clip": 0.5, "ema": 0.9, "eval_every": 10, "save_every": 1}
    config = TrainConfig(str(out), "", device="cpu", plots=False, **flags)
    Trainer(model, LanguageModeling(), adamw(1e-2), constant(), config).fit(
        Splits(Loader(text, 8, shuffle=True), Loader(text, 8))
    )


def run_rank(rank: int, ranks: int, out: Path, life: int, flags: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    checkpoint.LARGE = 0  # all write shards
    sys.stdout = sys.stderr = open("/dev/null", "w", encoding="utf-8")
    meeting = out.with_name(f"{out.name}-meeting-{life}").as_posix()
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
    train(out, **flags)
    dist.barrier()
    dist.destroy_process_group()


def start(ranks: int, out: Path, life: int, flags: dict[str, Any]) -> list[BaseProcess]:
    """Begin the processes of one life: copies of one that has imported everything, where the system can copy."""
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__, "torch.distributed.fsdp", "torch.distributed.tensor.parallel"])
    processes = [context.Process(target=run_rank, args=(rank, ranks, out, life, flags), daemon=True) for rank in range(ranks)]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[BaseProcess], timeout: float) -> list[int | None]:
    """Return the exit statuses of ranks, after ending those that do not end by themselves, as torchrun does."""
    for process in processes:
        process.join(timeout)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def state_of(run: Path) -> dict[str, Any]:
    """What the next step would depend on."""
    last = checkpoint.load(run / "last.pt")
    return {"last": {name: last[name] for name in ("optimizers", "position", "best")}, **checkpoint.load(run / last["shards"])}


@pytest.mark.parametrize(("ranks", "way"), WAYS, ids=["tp-2", "hsdp-2x2"])
def test_a_run_killed_at_random_ends_as_the_undisturbed_one(tmp_path: Path, ranks: int, way: dict[str, Any]) -> None:
    whole, disturbed, draw = tmp_path / "whole", tmp_path / "disturbed", random.Random()
    processes, began = start(ranks, whole, 0, way), time.monotonic()
    while not (whole / "last.pt").exists() and time.monotonic() < began + TIMEOUT:
        time.sleep(0.01)
    first_save = time.monotonic() - began
    assert finish(processes, TIMEOUT) == [0] * ranks
    training = time.monotonic() - began - first_save
    met = []  # whether a kill met a run that was not done, and the step of the last save after it
    for life in range(KILLS):
        processes = start(ranks, disturbed, life, way)
        time.sleep(draw.uniform(0.5 * first_save, first_save + 1.5 * training / KILLS))
        alive = all(process.is_alive() for process in processes)
        draw.choice(processes).kill()
        finish(processes, 5)
        met.append((alive, checkpoint.load(disturbed / "last.pt")["position"][0] if (disturbed / "last.pt").exists() else 0))
    assert any(alive for alive, _ in met)
    print(f"kills met {met}; begins in {first_save:.1f} s, trains for {training:.1f} s")
    assert finish(start(ranks, disturbed, KILLS, way), TIMEOUT) == [0] * ranks
    testing.assert_same_state(state_of(disturbed), state_of(whole), "run")
    assert_pickles_are_refused(disturbed)


def assert_pickles_are_refused(run: Path) -> None:
    """In place of an item, with the right checksum, and as the metadata of torch's own format."""
    folder, mark = run / f"shards-{STEPS}", run / "executed"
    content = pickle.dumps(Malicious(mark))
    index = read_json(folder / "index.json", {"files": object})
    name = sorted(index["files"])[0]
    (folder / name).write_bytes(content)
    index["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    write_json(index, folder / "index.json")
    for says in (name, "holds pickles"):
        for read in (lambda: checkpoint.load(folder), lambda: train(run, parallel="none")):
            with pytest.raises(UserError, match=says) as refused:
                read()
            assert "\n" not in str(refused.value)
        (folder / ".metadata").write_bytes(content)
    assert not mark.exists()
