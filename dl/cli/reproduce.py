"""Train again what is recorded, by the recorded commands, and compare: `python -m dl reproduce [MODEL] [--max-minutes N]`.

Where packages, instructions, threads and precision are those of the record, weights and history have to be the same bytes.
Elsewhere each figure of the record has to be met within a tolerance, see `tolerance`.
"""

import argparse
import contextlib
import dataclasses
import io
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Sequence

from dl.cli import catalogue, records, results
from dl.cli.listing import columns
from dl.cli.records import Record, of_model, scores
from dl.mytorch.command_line import parse
from dl.mytorch.config import UserError, current_names
from dl.mytorch.distributed import device
from dl.mytorch.files import read_json
from dl.mytorch.logger import SPEED, History, read_history
from dl.mytorch.precision import native_bf16
from dl.mytorch.run import FREE, read_described

RUNS = Path("runs/reproduce")


class Outcome(NamedTuple):
    """What came of a record: `missed` if it does not hold, neither that nor `met` if it could not be tried here."""

    met: bool
    missed: bool
    reason: str
    found: dict[str, float]  # the figures that the record has, as they are here; empty if nothing was trained


def main(options: argparse.Namespace) -> int:
    """Reproduce the records that were asked for, print a table, and return 1 if one is missed."""
    names = [catalogue.find(options.model)] if options.model else catalogue.names()
    chosen = [record for name in names for record in of_model(name)]
    chosen = sorted((r for r in chosen if r["seconds"] <= 60 * options.max_minutes), key=lambda record: record["seconds"])
    if not chosen:
        of = " ".join(names) if options.model else "any model"
        raise UserError(f"nothing is recorded of {of} that took {options.max_minutes:g} min or less")
    minutes = sum(record["seconds"] for record in chosen) / 60
    print(f"{len(chosen)} records, {minutes:.0f} min when they were recorded; trainings go into {RUNS}", flush=True)
    outcomes = []
    for number, record in enumerate(chosen, start=1):
        outcomes.append(reproduce(record))
        print(f"{number} of {len(chosen)}: {title(record)}: {outcomes[-1].reason}", flush=True)
    print(f"\n{columns(table(chosen, outcomes))}")
    missed = sum(outcome.missed for outcome in outcomes)
    tried = sum(outcome.met or outcome.missed for outcome in outcomes)
    print(f"\n{missed} of {tried} missed, {len(chosen) - tried} could not be tried here")
    return 1 if missed else 0


def table(chosen: Sequence[Record], outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Return a row for each record, headings first: its figures, as recorded and as found here."""
    rows = [["record", "figure", "recorded", "here", "outcome"]]
    for record, outcome in zip(chosen, outcomes):
        own = scores(record)
        here = [results.figure(name, outcome.found[name]) if name in outcome.found else "" for name in own]
        figures = [results.figure(name, value) for name, value in own.items()]
        rows.append([title(record), "\n".join(map(results.title, own)), "\n".join(figures), "\n".join(here), outcome.reason])
    return rows


def title(record: Record) -> str:
    """Return the model and the name of the record's file."""
    return f"{record['recipe']} {record['path'].stem}"


def reproduce(record: Record) -> Outcome:
    """Train a record again, and compare."""
    if reason := cannot_be_tried(record):
        return Outcome(False, False, reason, {})
    if changed := changed_since(record):
        return Outcome(False, True, f"MISSED: today its command means another training ({changed})", {})
    out = RUNS / record["recipe"] / record["path"].stem
    taken = precision_here(record)
    if line := train(record, taken, out):
        return Outcome(False, True, f"MISSED: the training failed: {line}", {})
    return compare(record, taken, out)


# ---- before --------------------------------------------------------------------------------------------------------


def cannot_be_tried(record: Record) -> str:
    """Return what this machine lacks for a record; "" if nothing."""
    if not data_is_here(record["config"]["data"]):
        return f"not tried: {record['config']['data']} is not on this machine; `python -m dl doctor` says how to get it"
    if record.get("ranks", 1) > 1:
        return f"not tried: it was trained by {record['ranks']} processes"
    if "CPU" not in record["device"] and device().type == "cpu":
        return f"not tried: it was trained on {record['device']}"
    return ""


def data_is_here(data: str) -> bool:
    """Return whether a set of published data can be read without a download. Any other is left to the training."""
    from dl.mytorch.data import sources
    from dl.mytorch.data.images import sets
    from dl.mytorch.data.text import shakespeare, sst2, translation, wikitext2

    texts = {**shakespeare.SOURCES, **translation.SOURCES, "wikitext2": wikitext2.SOURCE, "sst2": sst2.SOURCE}
    source = {**sets.SOURCES, **texts}.get(data)
    return source is None or sources.find(source) is not None


def words(record: Record) -> list[str]:
    """Return the flags of the recorded command; of an earlier version's record, those that mean the same today."""
    if "format" not in record:
        return [*shlex.split(records.command(record))[3:], f"--seed={record['seed']}"]
    given = shlex.split(record["command"])
    return given[3 if given[1] == "-m" else 2 :]


def changed_since(record: Record) -> str:
    """Return what the recorded command means otherwise today: a changed default, a refused flag; "" if nothing."""
    cls = records.config_class(record)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            asked = dataclasses.asdict(parse(cls, words(record)))
    except SystemExit:
        return said.getvalue().strip()
    then = current_names(cls, record["config"]) if "format" in record else records.as_taken(record)
    differ = {name: value for name, value in asked.items() if name in then and name not in FREE and then[name] != value}
    return "; ".join(f"{name} was {then[name]}, is {value}" for name, value in differ.items())


def precision_here(record: Record) -> str:
    """Return the precision that the record took, or fp32 for bf16 on a device that does not compute it natively."""
    taken = record.get("precision") or record["config"]["precision"]
    return "fp32" if taken == "bf16" and not native_bf16(device())[0] else taken


# ---- training ------------------------------------------------------------------------------------------------------


def threads(record: Record) -> int | None:
    """Return the threads that a training on a CPU had; None for another device."""
    found = re.search(r"(\d+) threads", record["device"])
    return record.get("threads") or (int(found[1]) if found else None)


def train(record: Record, precision: str, out: Path) -> str:
    """Train again in the folder `out`, in a separate process; return the last line of its log if it failed, else ""."""
    module = f"dl.modules.{record['recipe'].replace('/', '.')}.{record.get('file', 'train')}"
    command = [sys.executable, "-m", module, *words(record), f"--out={out}", f"--precision={precision}", "--fresh"]
    command += ["--device=cpu"] if "CPU" in record["device"] else []
    count = threads(record)
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"} | ({"OMP_NUM_THREADS": str(count)} if count else {})
    out.mkdir(parents=True, exist_ok=True)
    log = out.with_name(f"{out.name}.log")
    with open(log, "wb") as file:
        status = subprocess.run(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
        ).returncode
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else f'status {status}'} ({log})" if status else ""


# ---- after ---------------------------------------------------------------------------------------------------------


def compare(record: Record, precision: str, out: Path) -> Outcome:
    """Compare the run in `out` with the record that it is to reproduce."""
    history, described, speed = read_history(out / "history.json"), read_described(out), read_json(out / "speed.json", SPEED)
    found = figures(record, history)
    own = scores(record)
    lowered = f" in {precision}, recorded in {record['precision']}" if precision != record.get("precision", precision) else ""
    recipe = [name for name in ("optimizer", "schedule") if record.get(name, described.get(name)) != described.get(name)]
    if recipe:
        changes = "; ".join(f"{name} was {record[name]}, is {described.get(name)}" for name in recipe)
        return Outcome(False, True, f"MISSED: its recipe has changed ({changes})", found)
    if same_bytes_expected(record, described, speed):
        other = [name for name, digest in record["sha256"].items() if records.sha256(out / name) != digest]
        other += [name for name in own if found.get(name) != own[name]]
        return Outcome(not other, bool(other), f"MISSED: other {', '.join(other)}" if other else "the same bytes", found)
    limits = {name: tolerance(name, record) for name in own}
    off = [name for name in own if name not in found or not abs(found[name] - own[name]) <= limits[name]]
    shown = ", ".join(
        f"{results.title(name)} within {results.figure(name, limits[name]).lstrip('-')}" for name in off or list(own)[:1]
    )
    return Outcome(not off, bool(off), f"MISSED: not {shown}{lowered}" if off else f"{shown}{lowered}", found)


def figures(record: Record, history: History) -> dict[str, float]:
    """Return the figures of a run by which the record is judged."""
    best = history.best() or {"val": {}}
    return scores({"test": history.test} if "test" in record and history.test else {"val": best["val"]})


def same_bytes_expected(record: Record, described: dict[str, Any], speed: dict[str, Any]) -> bool:
    """Return whether nothing that decides about roundings differs between a record and its reproduction."""
    names = ("versions", "capability", "threads", "precision")
    alike = "format" in record and all(record.get(name) == described.get(name) for name in names)
    return alike and record["device"] == speed["device"]


def tolerance(quantity: str, record: Record) -> float:
    """Return how far a figure may be from the recorded one on another machine.

    Three sample standard deviations of the other recorded seeds, but at least 0.5 points of an error in per cent, or 2 % of
    any other value; with fewer than two of them 1.5 points, or 5 %. The record's own figure does not count: were it wrong,
    it would excuse itself.
    """
    error, value = quantity.endswith("_error"), abs(scores(record)[quantity])
    group = next((g for g in results.groups(record["recipe"]) if any(each["path"] == record["path"] for each in g)), [])
    others = [scores(each)[quantity] for each in group if each["path"] != record["path"] and quantity in scores(each)]
    if len(others) < 2:
        return 0.015 if error else 0.05 * value
    return max(3 * statistics.stdev(others), 0.005 if error else 0.02 * value)
