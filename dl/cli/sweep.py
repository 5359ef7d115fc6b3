"""A sweep: a training for each combination of flags and each seed, in separate processes, and their results in one table.

    python -m dl sweep CNN/LeNet --lr 0.05,0.1 --seeds 3 --jobs 2

Values with commas between them make the grid; a switch takes "on,off". All other flags go to every training. The same command
resumes a sweep that was stopped, in whatever way: trainings that are finished are not run again.
"""

import dataclasses
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple, Sequence, get_type_hints

from dl import print_error
from dl.cli import catalogue, folders
from dl.cli.listing import columns
from dl.cli.records import best_record
from dl.cli.sweep_table import Result, draw, judged_by, shown, table, title
from dl.mytorch.command_line import Parser, parse
from dl.mytorch.config import TrainConfig, UserError, current_names, user_path
from dl.mytorch.files import atomic_write, write_json
from dl.mytorch.lock import locked
from dl.mytorch.logger import read_history
from dl.mytorch.run import FREE

EVERY = 8.0  # seconds between two lines on what is running


class Trial(NamedTuple):
    """One training of a sweep."""

    setting: str  # "lr=0.05"; "" if nothing is swept but the seed
    seed: int
    flags: tuple[str, ...]  # for the recipe
    out: Path

    @property
    def title(self) -> str:
        return " ".join(filter(None, [self.setting, f"seed={self.seed}"]))


def main(model: str, argv: Sequence[str]) -> int:
    """Run what is not finished of the sweep, and write table, sweep.json and sweep.png; return 1 if a training failed."""
    name = catalogue.find(model)
    options, flags = _parser(name).parse_known_args(argv)
    if options.seeds < 1 or options.jobs < 1:
        raise UserError(f"--seeds and --jobs have to be at least 1; got {options.seeds} and {options.jobs}")
    config_class = catalogue.module(name, "train").Config
    out = options.out or Path("runs/sweep") / name
    settings = grid(config_class, flags)
    trials = [trial(out, setting, seed, words) for setting, words in settings.items() for seed in range(options.seeds)]
    configs = [parse(config_class, trial.flags) for trial in trials]  # a wrong flag ends the command here
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "sweep.lock", f"{out} is in use: another sweep runs there"):
        left = [trial for trial, config in zip(trials, configs) if not is_finished(trial.out, config)]
        print(f"{len(trials)} trainings of {name}, {len(trials) - len(left)} of them finished; {out}", flush=True)
        failed = run(name, left, options.jobs)
        found = results(trials)
        write_json({"model": name, "flags": flags, "seeds": options.seeds, "trainings": found}, out / "sweep.json")
    if not found:
        return 1
    rows = table(found)
    print(f"\n{columns(rows)}")
    figure = draw(found)
    with atomic_write(out / "sweep.png") as file:
        figure.savefig(file, format="png")
    print(f"\n{out / 'sweep.json'}, {out / 'sweep.png'}")
    return 1 if failed else 0


def _parser(name: str) -> Parser:
    usage = "python -m dl sweep MODEL [--seeds N] [--jobs N] [--out FOLDER] [flags of the recipe: --lr 0.05,0.1]"
    epilog = f"`python -m dl train {name} --help` shows the flags of the recipe."
    parser = Parser(usage=usage, description=(__doc__ or "").partition("\n")[0], epilog=epilog, allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="trainings of each setting, with seeds 0 to N - 1")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time, which share the processors")
    parser.add_argument("--out", type=user_path, metavar="FOLDER", help="of the sweep (default: runs/sweep/MODEL)")
    return parser


# ---- the grid ------------------------------------------------------------------------------------------------------


def grid(config_class: type[TrainConfig], words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return setting -> flags for the recipe, all combinations of `words`: "lr=0.05 model=tiny" -> ("--lr=0.05", ...).

    Raises `UserError` for a word that is no flag, and for --seed, which --seeds stands for.
    """
    hints, axes, words = get_type_hints(config_class), [], list(words)
    while words:
        flag, equals, value = words.pop(0).partition("=")
        if not flag.startswith("--"):
            raise UserError(f"{flag} is no flag; `python -m dl sweep MODEL --help` shows the usage")
        if flag in ("--seed", "--fresh", "--help"):
            raise UserError(
                f"{flag} is not for a sweep: --seeds N takes the seeds 0 to N - 1, another --out starts a new sweep"
            )
        if not equals and words and not words[0].startswith("--"):
            value = words.pop(0)
        name = flag.removeprefix("--").replace("-", "_")
        is_text = hints.get(name) is str and name not in ("data", "model")  # commas are its own
        values = value.split(",") if value and not is_text and ":" not in value else [value]
        switch = hints.get(name) is bool and value
        ways = [_switch(flag, each) if switch else f"{flag}={each}" if value else flag for each in values]
        axes.append([(f"{flag[2:]}={each}" if len(values) > 1 else "", way) for each, way in zip(values, ways)])
    return {
        " ".join(filter(None, (title for title, _ in chosen))): tuple(way for _, way in chosen)
        for chosen in itertools.product(*axes)
    }


def _switch(flag: str, value: str) -> str:
    if value not in ("on", "off"):
        raise UserError(f"{flag} is a switch: on, off or on,off; got {value}")
    return flag if value == "on" else f"--no-{flag[2:]}"


# ---- running -------------------------------------------------------------------------------------------------------


def trial(out: Path, setting: str, seed: int, words: Sequence[str]) -> Trial:
    """Return the training of a setting of `grid`, `words` its flags, in a folder below `out`."""
    folder = out / re.sub(r"[^\w.=+-]+", "-", f"{setting} seed={seed}".strip())
    return Trial(setting, seed, (*words, f"--seed={seed}", f"--out={folder}"), folder)


def is_finished(folder: Path, config: TrainConfig) -> bool:
    """Return whether `folder` has the finished run that `config` asks for. One with other flags the training itself refuses."""
    run = next((run for run in folders.found(folder) if run.path == folder), None)
    if run is None or not run.finished:
        return False
    there, asked = current_names(type(config), run.config), dataclasses.asdict(config)
    return all(there.get(name) == value for name, value in asked.items() if name not in FREE)


def run(name: str, waiting: list[Trial], jobs: int) -> list[Trial]:
    """Train `jobs` at a time, and return those that failed: the last line of each one's log is shown, the others continue."""
    waiting, running, failed = list(waiting), {}, []
    total, said = len(waiting), time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                trial = waiting.pop(0)
                running[trial] = start(name, trial, jobs)
            time.sleep(0.1)
            for trial, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[trial]
                if process.returncode:
                    failed.append(trial)
                print(f"{total - len(waiting) - len(running)} of {total}: {_outcome(trial, process.returncode)}", flush=True)
                said = time.monotonic()
            if time.monotonic() - said > EVERY:
                print(f"running: {', '.join(map(_state, running))}", flush=True)
                said = time.monotonic()
    finally:  # by Ctrl-C too: each saves its state and ends
        for process in running.values():
            process.stdin.close()
        for process in running.values():
            process.wait()
    return failed


# A process that Ctrl-C does not reach: it is asked to save and end by the sweep, once.
APART = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if sys.platform == "win32" else {"start_new_session": True}


def start(name: str, trial: Trial, jobs: int) -> subprocess.Popen:
    """Return the process of a training: what it prints is in a log beside its folder, its stdin is open while it is wanted."""
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    with open(_log(trial), "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "dl.cli.sweep", name, *trial.flags],
            env={**threads, **os.environ, "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            **APART,
        )


def train_while_wanted(name: str, flags: list[str]) -> None:
    """Train in this process until the one that started it is gone, even by kill -9: its end of stdin is closed then."""
    from dl.__main__ import main as front_door

    def watch() -> None:
        os.read(0, 1)
        signal.raise_signal(signal.SIGTERM)  # saves, and ends

    threading.Thread(target=watch, daemon=True).start()
    _wait_for_lock(parse(catalogue.module(name, "train").Config, flags).out)
    sys.exit(front_door(["train", name, *flags]))


def _wait_for_lock(folder: str) -> None:
    """Give the training of a sweep that was killed a minute to save what it has."""
    for _ in range(600 * (Path(folder) / "run.lock").exists()):
        try:
            with locked(Path(folder) / "run.lock", "in use"):
                return
        except UserError:
            time.sleep(0.1)


def _log(trial: Trial) -> Path:
    return trial.out.with_name(f"{trial.out.name}.log")


def _outcome(trial: Trial, status: int) -> str:
    if status:
        lines = _log(trial).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{trial.title} failed, status {status}: {lines[-1] if lines else 'no output'} ({_log(trial)})"
    (result,) = results([trial])
    quantity = judged_by([result])
    return f"{trial.title}: validation {title(quantity)} {shown(quantity, [result['val'][quantity]])}"


def _state(trial: Trial) -> str:
    run = next(folders.found(trial.out), None)
    return f"{trial.title}, epoch {run.history[-1].get('epoch')}" if run and run.history else trial.title


def results(trials: Sequence[Trial]) -> list[Result]:
    """Return setting, seed, folder and the figures of the best checkpoint, of each training that has been evaluated."""
    found = []
    for trial in trials:
        history = read_history(trial.out / "history.json") if (trial.out / "history.json").exists() else []
        if not history or not (best := best_record(history)):
            continue
        found.append(
            {"setting": trial.setting, "seed": trial.seed, "folder": trial.out.name, "val": best["val"], "test": history.test}
        )
    return found


if __name__ == "__main__":
    try:
        train_while_wanted(sys.argv[1], sys.argv[2:])
    except UserError as error:
        print_error(str(error))
        sys.exit(1)
