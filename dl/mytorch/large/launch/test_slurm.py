"""slurm.sh with stand-ins for Slurm's commands: asked to stop, it has the ranks save, and queues again; else it does not."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Slurm and its shell scripts run on POSIX systems")

SCRIPT = Path(__file__).with_name("slurm.sh")
COMMANDS = {
    "torchrun": 'echo "--shutdown-timeout"',
    "scancel": 'echo "scancel $*" >> log; touch asked',
    "scontrol": 'case "$1" in show) cat names;; *) echo "$*" >> log;; esac',
    # A step that ends by itself with a status, or else saves once it is asked to stop.
    "srun": """
        echo "$*" >> log
        [ -f status ] && exit "$(cat status)"
        until [ -f asked ]; do sleep 0.02; done
        sleep 0.3
        echo saved >> log
        exit 1
    """,
}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder with the commands, in which a job runs."""
    for name, body in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "names").write_text("first\nsecond\n", encoding="utf-8")
    return tmp_path


def start(job: Path, number: int = 7, **environment: str) -> subprocess.Popen:
    environment |= {"PATH": f"{job}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": str(number), "SLURM_JOB_NUM_NODES": "2"}
    command = ["bash", str(SCRIPT), "a.recipe", "--out", "a folder"]
    return subprocess.Popen(command, cwd=job, env=environment, stderr=subprocess.PIPE, text=True, encoding="utf-8")


def ended(process: subprocess.Popen) -> int:
    """Return the exit status of a job that ends."""
    process.communicate(timeout=60)
    return process.returncode


def logged(job: Path) -> list[str]:
    return (job / "log").read_text(encoding="utf-8").splitlines() if (job / "log").exists() else []


def wait_for_step(job: Path) -> None:
    deadline = time.monotonic() + 60
    while not logged(job):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_a_script_without_mistakes_of_grammar() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True).returncode == 0


def test_a_job_whose_time_is_over_saves_and_queues_again(job: Path) -> None:
    process = start(job)
    wait_for_step(job)
    process.send_signal(signal.SIGTERM)
    assert ended(process) == 128 + signal.SIGTERM
    step, *rest = logged(job)
    assert step.startswith("torchrun --nnodes=2 --nproc-per-node=gpu --shutdown-timeout=100 --rdzv-backend=c10d --rdzv-id=7 ")
    assert step.endswith("--rdzv-endpoint=first:20007 -m a.recipe --out a folder")
    assert rest == ["scancel --signal=TERM 7.0", "saved", "requeue 7"]


@pytest.mark.parametrize("status", [0, 3])
def test_a_job_that_ends_by_itself_does_not_queue_again(job: Path, status: int) -> None:
    (job / "status").write_text(str(status), encoding="utf-8")
    assert ended(start(job)) == status
    assert len(logged(job)) == 1


def test_two_jobs_do_not_meet_each_other(job: Path) -> None:
    (job / "status").write_text("0", encoding="utf-8")
    for number in (7, 8):
        assert ended(start(job, number)) == 0
    meetings = [[word for word in step.split() if word.startswith("--rdzv-")] for step in logged(job)]
    assert {"--rdzv-id=7", "--rdzv-endpoint=first:20007"} < set(meetings[0])
    assert {"--rdzv-id=8", "--rdzv-endpoint=first:20008"} < set(meetings[1])


def test_a_job_that_was_queued_again_does_not_start_over(job: Path) -> None:
    (job / "status").write_text("0", encoding="utf-8")
    assert ended(start(job)) == ended(start(job, SLURM_RESTART_COUNT="1")) == 0
    assert [step.endswith(" a.recipe --out a folder --no-fresh") for step in logged(job)] == [False, True]


def test_without_the_names_of_its_machines_a_job_does_not_start(job: Path) -> None:
    (job / "names").write_text("", encoding="utf-8")
    process = start(job)
    assert process.communicate(timeout=60)[1] == "error: scontrol does not name the machines of this job\n"
    assert process.returncode == 1 and logged(job) == []


def test_an_older_torchrun_is_not_asked_for_what_it_lacks(job: Path) -> None:
    (job / "torchrun").write_text("#!/bin/sh\necho --nnodes\n", encoding="utf-8")
    (job / "status").write_text("0", encoding="utf-8")
    assert ended(start(job)) == 0
    assert "--shutdown-timeout" not in logged(job)[0]
