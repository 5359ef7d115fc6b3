"""Several ranks in trouble: other numbers of them, killed ones, and every failure that ends all. Slow tier."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dl.mytorch import checkpoint, testing
from dl.mytorch.testing.processes import finish, start, wait_for_change

pytestmark = pytest.mark.slow


def kill_ranks(process: subprocess.Popen) -> None:
    """All ranks at once; torchrun then gives up."""
    subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)
    finish(process, 1)


def ranks_of(process: subprocess.Popen) -> list[int]:
    """Their process ids."""
    return list(map(int, subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()))


def test_shards_that_four_ranks_wrote_are_taken_up_by_two_and_by_one(recipe: Path) -> None:
    """With an average, whose shards are in the files as well; the last process also reads all shards as plain weights."""
    flags = ["--epochs", "6", "--save-every", "1", "--ema", "0.9", "--pause", "0.05", "--shards"]
    whole, broken = recipe.parent / "whole", recipe.parent / "broken"
    finish(start(recipe, "--out", str(whole), *flags))
    for ranks in (4, 2):
        process = start(recipe, "--out", str(broken), "--parallel", "fsdp", *flags, ranks=ranks)
        last = broken / "last.pt"
        wait_for_change(last, last.stat().st_mtime if last.exists() else 0, process)
        kill_ranks(process)
        state = checkpoint.load(last)
        assert "model" not in state
        step = state["position"][0]
        plain = checkpoint.load(broken / state["shards"])  # as one rank would have it, for any other program
        assert {name: tensor.shape for name, tensor in plain["model"].items()} == {
            name: tensor.shape for name, tensor in checkpoint.load(whole / "best.pt").items()
        }
    output = finish(start(recipe, "--out", str(broken), *flags))
    assert f"resuming {broken} at step {step} of" in output
    for name, weights in checkpoint.load(whole / "best.pt").items():
        assert (weights - checkpoint.load(broken / "best.pt")[name]).abs().max() <= 1e-5, name
    assert not list(broken.glob("shards-*"))  # what one process saved is in last.pt


@pytest.mark.parametrize("flags", ["--parallel ddp", "--parallel fsdp --shards"])
def test_killed_ranks_are_started_again_by_torchrun_and_nothing_shows(
    recipe: Path, flags: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of two ranks dies by kill -9, three times, at random moments; `--fresh` counts for the first start only."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    given = ["--epochs", "8", "--dropout", "0.3", "--save-every", "2", "--pause", "0.05", "--fresh", *flags.split()]
    whole, broken = recipe.parent / "whole", recipe.parent / "broken"
    finish(start(recipe, "--out", str(whole), *given, ranks=2))
    process = start(recipe, "--out", str(broken), *given, ranks=2, restarts=3)
    randomness, last = random.Random(0), broken / "last.pt"
    for _ in range(3):
        wait_for_change(last, last.stat().st_mtime if last.exists() else 0, process)
        time.sleep(randomness.uniform(0, 0.3))
        os.kill(randomness.choice(ranks_of(process)), signal.SIGKILL)
    finish(process)
    testing.assert_same_runs(whole, broken)


# ---- failures: every rank stops, with a line -----------------------------------------------------------------------


def errors(output: str) -> list[str]:
    """What the ranks say, in the order of ranks; none of them with a stack, as torchrun adds its own."""
    assert not any(line.endswith(", in launch") for line in output.splitlines()), output
    return sorted(line for line in output.splitlines() if line.startswith(("error:", "[rank ")))


@pytest.mark.parametrize(("rank", "port"), [("1", "9"), ("0", "29617")], ids=["no such place", "a rank never comes"])
def test_ranks_that_do_not_meet_are_a_line(recipe: Path, rank: str, port: str) -> None:
    place = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(recipe), "--out", str(recipe.parent / "x"), "--parallel", "ddp", "--patience", "3"]
    process = subprocess.run(command, env=os.environ | place, capture_output=True, text=True, timeout=300)
    assert process.returncode == 1
    (line,) = errors(process.stderr)
    assert f"the 2 ranks did not meet at 127.0.0.1:{port} within 3 s" in line


def test_a_rank_that_falls_silent_ends_the_others(recipe: Path) -> None:
    out, flags = recipe.parent / "x", ["--epochs", "999", "--parallel", "ddp", "--patience", "20"]
    process = start(recipe, "--out", str(out), *flags, ranks=2)
    wait_for_change(out / "last.pt", 0, process)
    os.kill(ranks_of(process)[-1], signal.SIGSTOP)
    output = finish(process, 1)  # within its own timeout
    assert any("another rank has not answered for 20 s" in line for line in errors(output)), output


def test_ranks_with_different_flags_are_refused(recipe: Path) -> None:
    script = recipe.parent / "differ.sh"
    flags = f"--out {recipe.parent / 'x'} --parallel ddp --lr 0.$((RANK + 1)) --seed $RANK"
    script.write_text(f"exec {sys.executable} {recipe} {flags}\n", encoding="utf-8")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--no-python"]
    process = subprocess.run([*torchrun, "sh", str(script)], capture_output=True, text=True, timeout=300)
    assert process.returncode == 1
    for line in errors(process.stderr + process.stdout):
        assert "rank 1 was started with other flags than rank 0: seed 1 instead of 0, lr 0.2 instead of 0.1" in line


def test_restarts_over_a_store_that_outlives_them_are_refused(recipe: Path) -> None:
    """torchrun's default: the ranks of the second start would wait for the addresses of the first."""
    output = finish(start(recipe, "--out", str(recipe.parent / "x"), "--parallel", "ddp", ranks=2, restarts=1), 1)
    assert all("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun" in line for line in errors(output)) and errors(output)


def test_a_missing_shard_is_a_line(recipe: Path) -> None:
    flags = ["--epochs", "6", "--save-every", "1", "--pause", "0.05", "--parallel", "fsdp", "--shards"]
    out = recipe.parent / "run"
    process = start(recipe, "--out", str(out), *flags, ranks=2)
    wait_for_change(out / "last.pt", 0, process)
    kill_ranks(process)
    folder = out / checkpoint.load(out / "last.pt")["shards"]
    (folder / "rank-1.safetensors").unlink()
    lines = errors(finish(start(recipe, "--out", str(out), *flags, ranks=2), 1))
    assert lines and all(f"{folder / 'rank-1.safetensors'} is missing" in line for line in lines), lines


@pytest.mark.parametrize("flags", ["--parallel ddp", "--parallel fsdp --shards"])
def test_a_full_disk_ends_all_ranks(recipe: Path, small_disk: Path, flags: str) -> None:
    output = finish(start(recipe, "--out", str(small_disk / "run"), "--epochs", "20", *flags.split(), ranks=2), 1)
    lines = errors(output)
    assert any("cannot write" in line and "No space left" in line for line in lines), output
    assert all("another rank has stopped" in line or "cannot write" in line for line in lines), output


# ---- one process -----------------------------------------------------------------------------------------------------


def workers_of(process: subprocess.Popen) -> list[int]:
    return ranks_of(process)  # its children


WITH_WORKERS = ["--one-by-one", "--num-workers", "2", "--pause", "0.05", "--epochs", "999", "--save-every", "1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_run_with_workers_saves_and_stops(recipe: Path, number: signal.Signals) -> None:
    """As batch systems and Ctrl-C send it."""
    out = recipe.parent / "run"
    process = start(recipe, "--out", str(out), *WITH_WORKERS)
    wait_for_change(out / "last.pt", 0, process)
    for one in (*workers_of(process), process.pid):
        os.kill(one, number)
    output = finish(process, 128 + number)
    assert "saved; the same command resumes" in output and "rror" not in output, output


def test_a_killed_worker_is_a_line(recipe: Path) -> None:
    out = recipe.parent / "run"
    process = start(recipe, "--out", str(out), *WITH_WORKERS)
    wait_for_change(out / "last.pt", 0, process)
    os.kill(workers_of(process)[0], signal.SIGKILL)
    (line,) = errors(finish(process, 1))
    assert "DataLoader worker" in line and "--num-workers" in line


@pytest.mark.parametrize("removed", ["run", "run/tensorboard"])
def test_a_folder_that_is_removed_while_training_is_a_line_or_no_matter(recipe: Path, removed: str) -> None:
    out = recipe.parent / "run"
    process = start(recipe, "--out", str(out), "--pause", "0.05", "--epochs", "6", "--save-every", "1")
    charts = out / "tensorboard" / "val"
    wait_for_change(charts, 0, process)
    while process.poll() is None and not any(charts.iterdir()):  # a run whose folder vanishes before its file is open ends
        time.sleep(0.002)
    while (recipe.parent / removed).exists():  # the run may be writing into it
        shutil.rmtree(recipe.parent / removed, ignore_errors=True)
    output, _ = process.communicate(timeout=300)
    assert "Traceback" not in output, output
    if removed == "run":
        (line,) = errors(output)
        assert process.returncode == 1 and str(out) in line
    else:
        assert process.returncode == 0


def test_a_small_dev_shm_with_workers_is_a_line(recipe: Path) -> None:
    """As in a container: 64 kB, which a batch of images does not fit."""
    mounted = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    train = f"{sys.executable} {recipe} --out {recipe.parent / 'run'} --one-by-one --num-workers 1 --batch-size 48"
    if subprocess.run(["unshare", "-m", "sh", "-c", mounted], capture_output=True).returncode:
        pytest.skip("another /dev/shm takes root on Linux")
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"{mounted} && exec {train}"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = finish(process, 1)
    assert any(line.startswith("error:") and "--num-workers" in line for line in output.splitlines()), output
    assert "Traceback" not in output, output
