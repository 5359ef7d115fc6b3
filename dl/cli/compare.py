"""Runs side by side: `python -m dl compare RUN RUN ...`, or a folder of runs. Flags that differ, figures, rates, curves."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence

from dl.cli import catalogue, folders, results
from dl.cli.listing import columns
from dl.cli.records import best_record, config_class
from dl.mytorch import plot
from dl.mytorch.config import UserError, current_names
from dl.mytorch.events import Events
from dl.mytorch.files import read_recorded_json
from dl.mytorch.logger import SPEED, History, read_history
from dl.mytorch.run import read_described

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN = {"out", "fresh", "log_every", "save_every", "plots", "num_workers"}  # these change neither figures nor rates

MADE_BY = ("optimizer", "schedule")  # which the recipe makes of its flags


class Compared(NamedTuple):
    """A run with what is compared. `settings` are all that it was asked for, `about` the record of its best checkpoint."""

    name: str
    settings: dict[str, Any]
    history: History
    about: dict[str, Any]
    speed: dict[str, Any]

    @property
    def figures(self) -> dict[str, float]:
        """Validation of the best checkpoint, and its test if there is one."""
        parts = {"validation": self.about["val"], "test": self.history.test or {}}
        return {f"{part}_{name}": value for part, means in parts.items() for name, value in means.items() if value is not None}


def main(options: argparse.Namespace) -> None:
    """Print the table, and draw the figure."""
    runs = read(options.runs)
    print(columns(table(runs)))
    plot.save_figure(curves(runs), options.figure)
    print(f"\n{options.figure}")
    if options.tensorboard:
        write_events(runs, options.tensorboard)
        print(f"tensorboard --logdir {options.tensorboard}")


def read(given: Sequence[Path]) -> list[Compared]:
    """Return the runs that were given, and those below the folders that were. Raises `UserError` for fewer than two."""
    paths = [
        path for each in given for path in ([each] if folders.described(each) else [run.path for run in folders.found(each)])
    ]
    paths = [path for path in dict.fromkeys(paths) if (path / "history.json").exists()]
    if len(paths) < 2:
        shown = ", ".join(map(str, given))
        raise UserError(
            f"{shown}: {len(paths)} of two or more runs with an evaluation; `python -m dl runs` shows what there is"
        )
    try:
        above = os.path.commonpath([path.parent.resolve() for path in paths])
        names = [Path(os.path.relpath(path, above)).as_posix() for path in paths]
    except ValueError:  # on two drives of Windows
        names = [path.as_posix() for path in paths]
    return [_read(path, name) for path, name in zip(paths, names)]


def _read(path: Path, name: str) -> Compared:
    described = catalogue.current(read_described(path))
    config = described["config"]
    if described["recipe"] in catalogue.names():
        config = current_names(config_class(described), config)
    made_by = {key: described[key] for key in MADE_BY if key in described}
    settings = (
        {"recipe": described["recipe"]}
        | made_by
        | config
        | ({"precision": described["precision"]} if "precision" in described else {})
    )
    history = read_history(path / "history.json")
    if not (best := best_record(history)):
        raise UserError(f"{path} has not been evaluated yet")
    speed = read_recorded_json(path / "speed.json", SPEED) if (path / "speed.json").exists() else {}
    return Compared(name, settings, history, best, speed)


def differing(runs: Sequence[Compared]) -> list[str]:
    """Return the names of settings that are not the same in all runs; of optimizer and schedule if nothing else explains it."""
    names = dict.fromkeys(name for run in runs for name in run.settings if name not in HIDDEN)
    differ = [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]
    return [name for name in differ if name not in MADE_BY] or differ


def table(runs: Sequence[Compared]) -> list[list[str]]:
    """Return a row for each run, headings first: what differs, figures, rates. The lowest of each validation is marked by *."""
    flags = differing(runs)
    quantities = list(dict.fromkeys(name for run in runs for name in run.figures))
    quantities.sort(key=lambda name: name.endswith("loss"))  # stable: errors first
    lowest = {
        name: min(run.figures[name] for run in runs if name in run.figures) for name in quantities if "validation" in name
    }
    rows = [["run", *flags, *map(results.title, quantities), "epoch", "examples/s", "time", "memory"]]
    for run in runs:
        figures = [
            results.figure(name, run.figures[name]) + " *" * (run.figures[name] == lowest.get(name))
            if name in run.figures
            else ""
            for name in quantities
        ]
        rates = ["", "", ""]
        if run.speed:
            memory = run.speed["peak_memory_bytes"]
            rates = [f"{run.speed['examples_per_second']:,.0f}", results.time(run.speed["training_seconds"])]
            rates.append(f"{memory / 2**20:,.0f} MiB" if memory else "")
        rows.append([run.name, *(str(run.settings.get(name, "")) for name in flags), *figures, str(run.about["epoch"]), *rates])
    return rows


def curves(runs: Sequence[Compared]) -> "Figure":
    """Return a chart for each quantity with the curves of all runs: validation in full lines, training in thin ones."""
    names = list(dict.fromkeys(name for run in runs for record in run.history if "val" in record for name in record["val"]))
    wide, beside = (
        4.4,
        0.6 + 0.075 * min(60, max(22, *(len(run.name) for run in runs))),
    )  # inches; the legend stands beside the charts
    width = wide * len(names) + beside
    fig = plot.figure(width, max(3.4, 0.6 + 0.2 * len(runs)))
    fig.subplots_adjust(left=0.5 / width, right=1 - beside / width, bottom=0.15, top=0.9, wspace=0.18)
    counts = {plot.counted(run.history) for run in runs}
    over = counts.pop() if len(counts) == 1 else "step"
    for axes, name in zip(fig.subplots(1, len(names), squeeze=False)[0], names):
        for number, run in enumerate(runs):
            color = f"C{number % 10}"
            for part, style in (("train", {"linewidth": 0.7, "alpha": 0.6}), ("val", {"marker": "."})):
                points = [(r[over], r[part][name]) for r in run.history if r.get(part, {}).get(name) is not None]
                if points:
                    label = plot.shortened(run.name, 60) if part == "val" else None
                    axes.plot(*zip(*points), color=color, label=label, linestyle="-" if number < 10 else "--", **style)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("optimizer step" if over == "step" else over.replace("_", " "))
        axes.grid(alpha=0.3)
    handles = {label: handle for axes in fig.axes for handle, label in zip(*axes.get_legend_handles_labels())}
    fig.legend(
        handles.values(),
        handles.keys(),
        loc="center right",
        fontsize=8,
        title="validation (thin: training)",
        title_fontsize=8,
    )
    return fig


def write_events(runs: Sequence[Compared], folder: Path) -> None:
    """Write the curves of all runs for TensorBoard, and for its table of runs the flags that differ.

    Raises `UserError` for a folder that holds something: TensorBoard would show the two together.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: name a new folder for --tensorboard")
    flags = differing(runs)
    for run in runs:
        name = run.name.replace("/", " ")
        for part in ("train", "val"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            events = Events(folder / name / part, purge_step=0)
            for record in run.history:
                for quantity, value in record.get(part, {}).items():
                    if value is not None:
                        events.add_scalar(quantity, value, record["step"])
            if part == "val":
                kinds = {flag: run.settings.get(flag, "") for flag in flags}
                events.add_hparams({flag: "" if value is None else value for flag, value in kinds.items()}, run.figures)
            events.close()
