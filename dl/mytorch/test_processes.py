"""Whole training runs as processes: killed at random moments, spread over two ranks, on a full disk. Slow tier."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from dl.mytorch import checkpoint, testing
from dl.mytorch.files import read_json
from dl.mytorch.testing.processes import finish, start, wait_for_change

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_storm_of_20_kills_leaves_the_bytes_of_the_undisturbed_run(recipe: Path, number: signal.Signals) -> None:
    """A checkpoint is written at every step, so that many kills meet a file half-written."""
    flags = ["--epochs", "120", "--save-every", "1", "--dropout", "0.3", "--ema", "0.9", "--pause", "0.01"]
    whole, broken = recipe.parent / "whole", recipe.parent / "broken"
    finish(start(recipe, "--out", str(whole), *flags))
    randomness = random.Random(number)
    kills = met_writing = 0
    while kills < 20:
        process = start(recipe, "--out", str(broken), *flags)
        last = broken / "last.pt"
        wait_for_change(last, last.stat().st_mtime if last.exists() else 0, process)
        time.sleep(randomness.uniform(0, 0.3))
        if process.poll() is not None:
            break
        process.send_signal(number)
        process.communicate(timeout=60)
        kills += process.returncode in (-signal.SIGKILL, 128 + signal.SIGTERM)
        met_writing += any(broken.glob("*.tmp"))
    finish(start(recipe, "--out", str(broken), *flags))
    testing.assert_same_runs(whole, broken)
    print(f"{kills} kills with {number.name}, {met_writing} of them while a file was being written")
    assert kills == 20


def test_resume_with_another_worker_count_leaves_the_same_bytes(recipe: Path) -> None:
    flags = ["--epochs", "12", "--one-by-one", "--dropout", "0.3", "--pause", "0.02"]
    finish(start(recipe, "--out", str(recipe.parent / "whole"), *flags))
    broken = recipe.parent / "broken"
    for workers in ("2", "1"):
        process = start(recipe, "--out", str(broken), "--num-workers", workers, *flags)
        last = broken / "last.pt"
        wait_for_change(last, last.stat().st_mtime if last.exists() else 0, process)
        process.send_signal(signal.SIGTERM)
        finish(process, 143)
    finish(start(recipe, "--out", str(broken), *flags))
    testing.assert_same_runs(recipe.parent / "whole", broken)


@pytest.mark.parametrize("flags", ["", "--accumulate 2", "--accumulate 4 --ema 0.9 --grad-clip 0.05"])
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_equal_one_process(recipe: Path, parallel: str, flags: str) -> None:
    """49 images in batches of 8: the last one has a single image, so that one rank gets none."""
    given = ["--epochs", "3", *flags.split()]
    finish(start(recipe, "--out", str(recipe.parent / "one"), *given))
    finish(start(recipe, "--out", str(recipe.parent / "two"), "--parallel", parallel, *given, ranks=2))
    one, two = (checkpoint.load(recipe.parent / name / "last.pt") for name in ("one", "two"))
    for part in ("model", "ema") if one["ema"] else ("model",):
        for name, weights in one[part].items():
            assert torch.as_tensor(weights - two[part][name]).abs().max() <= 1e-6, (part, name)
    for left, right in zip(*(read_json(recipe.parent / name / "history.json") for name in ("one", "two")), strict=True):
        for split in left.keys() & {"train", "val", "test"}:
            for name, value in left[split].items():
                assert right[split][name] == pytest.approx(value, abs=1e-6), (split, name)


def test_two_ranks_killed_and_resumed_leave_the_bytes_of_the_undisturbed_run(recipe: Path) -> None:
    flags = ["--epochs", "30", "--parallel", "ddp", "--dropout", "0.3", "--save-every", "2", "--pause", "0.01"]
    whole, broken = recipe.parent / "whole", recipe.parent / "broken"
    finish(start(recipe, "--out", str(whole), *flags, ranks=2))
    for _ in range(3):
        process = start(recipe, "--out", str(broken), *flags, ranks=2)
        last = broken / "last.pt"
        wait_for_change(last, last.stat().st_mtime if last.exists() else 0, process)
        subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)  # the ranks; torchrun then gives up
        finish(process, 1)
    finish(start(recipe, "--out", str(broken), *flags, ranks=2))
    testing.assert_same_runs(whole, broken)


def test_ranks_that_are_asked_to_stop_do_so_after_the_step_and_are_saved(recipe: Path) -> None:
    """Long before the next line of the log, the next evaluation, and the 30 seconds after which torchrun kills."""
    never = [word for flag in ("--log-every", "--eval-every", "--save-every") for word in (flag, "1000000")]
    out = recipe.parent / "run"
    flags = ["--steps", "1000000", "--parallel", "ddp", "--pause", "0.2", *never]
    process = start(recipe, "--out", str(out), *flags, ranks=2)
    wait_for_change(out / "summary.txt", 0, process)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    assert "saved; the same command resumes" in finish(process, 1)
    step = checkpoint.load(out / "last.pt")["position"][0]
    assert 0 < step < 100


def test_shards_of_two_ranks_are_taken_up_by_one_process(recipe: Path) -> None:
    flags = ["--epochs", "20", "--save-every", "1", "--ema", "0.9", "--pause", "0.02"]
    whole, broken = recipe.parent / "whole", recipe.parent / "broken"
    finish(start(recipe, "--out", str(whole), *flags))
    process = start(recipe, "--out", str(broken), "--parallel", "fsdp", *flags, ranks=2)
    wait_for_change(broken / "last.pt", 0, process)
    subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)
    finish(process, 1)
    assert "resuming " in finish(start(recipe, "--out", str(broken), *flags))
    for name, weights in checkpoint.load(whole / "best.pt").items():
        assert (weights - checkpoint.load(broken / "best.pt")[name]).abs().max() <= 1e-5, name


def test_torchrun_without_parallel_is_refused(recipe: Path) -> None:
    assert "--parallel is none: add --parallel ddp" in finish(start(recipe, "--out", str(recipe.parent / "x"), ranks=2), 1)


def test_a_full_disk_ends_the_run_with_one_line_and_the_last_good_state(recipe: Path, small_disk: Path) -> None:
    out = small_disk / "run"
    output = finish(start(recipe, "--out", str(out), "--epochs", "20"), 1)
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "No space left" in errors[0] and "Traceback" not in output, output
    # With more space the same command resumes: nothing on the disk is half a file.
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    finish(start(recipe, "--out", str(out), "--epochs", "20"))
    finish(start(recipe, "--out", str(recipe.parent / "whole"), "--epochs", "20"))
    testing.assert_same_runs(recipe.parent / "whole", out)


def test_a_place_where_nothing_can_be_written_is_refused_with_one_line(recipe: Path) -> None:
    output = finish(start(recipe, "--out", str(recipe / "run")), 1)  # inside a file
    assert output.startswith("error:") and str(recipe / "run") in output and len(output.splitlines()) == 1


def test_compiled_training_equals_eager(recipe: Path) -> None:
    if not testing.has_compiler():
        pytest.skip("torch.compile on a CPU takes a C++ compiler")
    for name, flags in (("eager", []), ("compiled", ["--compile"])):
        finish(start(recipe, "--out", str(recipe.parent / name), "--epochs", "2", *flags))
    eager, compiled = (torch.load(recipe.parent / name / "best.pt") for name in ("eager", "compiled"))
    for key in eager:
        assert (eager[key] - compiled[key]).abs().max() <= 1e-5
