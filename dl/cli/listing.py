"""Tables of models and of runs for the terminal. This imports no torch."""

import argparse
import json
import shutil
import time
from itertools import zip_longest
from typing import Sequence

from dl import shown_bytes
from dl.cli import catalogue, facts, folders
from dl.cli.folders import Folder

PRUNED = ("last.pt", "last-before.pt", "replay.bin", "shards-[0-9]*")  # what resumes a run; a finished one needs none of it
NEGATIVE = "negative_"  # a quantity that rises is recorded with the other sign, since all recorded ones fall


def show_models(options: argparse.Namespace) -> None:
    """`python -m dl list [CATEGORY]`"""
    known, rows = facts.read(), {}
    for name in catalogue.names():
        if not options.category or name.lower().startswith(f"{options.category.strip('/').lower()}/"):
            paper = catalogue.paper(name)
            rows[name] = {
                "paper": paper.name,
                "year": paper.year,
                **{key: known.get(name, {}).get(key, empty) for key, empty in (("presets", {}), ("best", []))},
            }
    if not rows:
        categories = dict.fromkeys(name.partition("/")[0] for name in catalogue.names())
        raise catalogue.UnknownName(f"no category {options.category}; there are {', '.join(categories)}")
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    cells = [["model", "paper", "parameters", "best test result here, training time"]]
    for name, row in rows.items():
        counts = "\n".join(f"{preset} {count:,}" for preset, (count, _) in row["presets"].items())
        cells.append([name, ", ".join(filter(None, [row["paper"], row["year"]])), counts, "\n".join(row["best"])])
    print(columns(cells))


def show_runs(options: argparse.Namespace) -> None:
    """`python -m dl runs [FOLDER] [--prune]`"""
    found = list(folders.found(options.folder))
    if not found:
        print(f"no runs below {options.folder}; `python -m dl train MODEL` makes one")
        return
    if options.prune:
        freed = sum(prune(run) for run in found)
        print(f"deleted {freed:,} bytes of finished runs: last.pt, last-before.pt, shards")
        return
    rows = [["run", "model", "data", "best", "state", "size", "age"]]
    for run in found:
        state = "finished" if run.finished else f"step {run.history[-1].get('step', '?')}" if run.history else "begun"
        model = f"{run.recipe} {run.config.get('model', '')}".strip()
        age, size = time.time() - run.changed, sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
        rows.append([str(run.path), model, str(run.config.get("data", "")), best(run), state, shown_bytes(size), _age(age)])
    print(columns(rows))


def best(run: Folder) -> str:
    """Return the figure that a run is judged by, of its test or else of its best validation; "" before there is one."""
    parts = [(part, record[part]) for record in run.history for part in ("test", "val") if isinstance(record.get(part), dict)]
    if not parts:
        return ""
    kind = "test" if parts[-1][0] == "test" else "val"
    name = first_metric(list(parts[-1][1]))
    values = [means[name] for part, means in parts if part == kind and isinstance(means.get(name), (int, float))]
    if not values:
        return ""
    if NEGATIVE in name:
        return f"{kind} {name.replace(NEGATIVE, '').replace('_', ' ')} {-min(values):.4g}"
    shown = f"{min(values):.2%}" if name.endswith("error") else f"{min(values):.4g}"
    return f"{kind} {name.replace('_', ' ')} {shown}"


def first_metric(names: Sequence[str]) -> str:
    """Return the quantity that a run is judged by: the first that is no loss, else the first; "" of none."""
    return next((name for name in names if not name.endswith("loss")), names[0] if names else "")


def prune(run: Folder) -> int:
    """Delete what only resuming needs, if the run is finished; return the bytes that are free now."""
    if not (run.finished and run.trained):
        return 0
    freed = 0
    for path in (path for name in PRUNED for path in run.path.glob(name)):
        inside = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        freed += sum(file.stat().st_size for file in inside)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return freed


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Return cells in columns, the first row underlined; a cell may have several lines."""
    lines = [line for row in rows for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue="")]
    widths = [max(map(len, column)) for column in zip(*lines)]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
