"""Tables of what is recorded, for the READMEs: see `dl/cli/records.py`."""

import importlib
import re
import statistics
from pathlib import Path
from typing import Any, Sequence

from dl.cli import catalogue
from dl.cli.listing import NEGATIVE, first_metric
from dl.cli.records import Record, command, is_default, is_modified, of_model, scores, settings, stage
from dl.mytorch.files import atomic_write

# ---- groups of seeds -----------------------------------------------------------------------------------------------


def groups(name: str) -> list[list[Record]]:
    """Return the records of a model, those together that differ in nothing but the seed, in the order of seeds."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in of_model(name):
        key = (record["config"]["data"], stage(record), record["config"].get("model", ""), *settings(record))
        found.setdefault(key, []).append(record)
    return [sorted(found[key], key=lambda record: record["seed"]) for key in sorted(found)]


def _spread(group: list[Record], quantity: str) -> str:
    """Mean and sample standard deviation over seeds of a quantity of `scores`: errors in percent, others as they are."""
    found = (scores(record).get(quantity) for record in group)  # None where it is no number: an agent's loss in a test
    values = [value for value in found if value is not None]
    if not values:
        return ""
    if NEGATIVE in quantity:
        return spread(values, ".1f", -1)
    return spread(values, ".2f", 100) + " %" if quantity.endswith("_error") else spread(values, ".4f")


def spread(values: Sequence[float], digits: str, scale: float = 1) -> str:
    """Return mean and, of several values, sample standard deviation, times `scale`, in the format `digits`."""
    deviation = f" \u00b1 {abs(scale) * statistics.stdev(values):{digits}}" if len(values) > 1 else ""  # plus-minus
    return f"{scale * statistics.mean(values):{digits}}{deviation}"


def judged(group: list[Record]) -> tuple[str, float]:
    """Return the quantity that judges a group of seeds, the task's first metric or its loss, and its mean."""
    quantity = first_metric(list(scores(group[0])))
    return quantity, statistics.mean(scores(record)[quantity] for record in group)


def default_group(name: str) -> tuple[str, list[Record]] | None:
    """Return the group of seeds that ran the recipe's defaults of today, and the quantity that judged; None without one."""
    group = next((group for group in groups(name) if is_default(group[0])), None)
    return None if group is None else (judged(group)[0], group)


def best_groups(name: str) -> dict[str, tuple[str, list[Record]]]:
    """Return for each data set the best group of seeds, and the quantity that judged: the task's first metric, or its loss."""
    best: dict[str, tuple[float, str, list[Record]]] = {}
    for group in groups(name):
        data, (quantity, mean) = group[0]["config"]["data"], judged(group)
        if data not in best or mean < best[data][0]:
            best[data] = (mean, quantity, group)
    return {data: (quantity, group) for data, (_, quantity, group) in best.items()}


def best_results(name: str) -> list[str]:
    """Return the best result on each data set, in words."""
    words = []
    for data, (quantity, group) in best_groups(name).items():
        how = ", ".join(filter(None, [group[0]["config"].get("model"), time(mean_seconds(group))]))
        words.append(f"{data}: {title(quantity)} {_spread(group, quantity)} ({how})")
    return words


def mean_seconds(group: list[Record]) -> float:
    """Return the mean seconds of training over seeds."""
    return statistics.mean(record["training_seconds"] for record in group)


def length(config: dict[str, Any]) -> str:
    """Return how long a training was: in optimizer steps if these were asked for, in an agent's steps, or in epochs."""
    if config["steps"]:
        return f"{config['steps']} steps"
    if "env_steps" in config:
        return f"{config['env_steps']:,} steps"
    return f"{config['epochs']} epoch{'' if config['epochs'] == 1 else 's'}"


def figure(quantity: str, value: float) -> str:
    """Return a figure as readable text: an error in per cent, a quantity that rises with its sign, any other as it is."""
    if NEGATIVE in quantity:
        return f"{-value:.1f}"
    return f"{100 * value:.2f} %" if quantity.endswith("_error") else f"{value:.4f}"


def title(quantity: str) -> str:
    """Return the name of a quantity as readable text; of one that is recorded as its negative, that of `figure`."""
    quantity = quantity.replace(NEGATIVE, "")
    return re.sub(r"top(\d+)", r"top-\1", quantity).replace("_", " ")


# ---- tables --------------------------------------------------------------------------------------------------------


def results_table(name: str) -> str:
    """Return the recorded results of a model as Markdown, a row for each group of seeds."""
    found = groups(name)
    if not found:
        return "No result is recorded yet."
    quantities = dict.fromkeys(quantity for group in found for quantity in scores(group[0]))
    quantities = sorted(quantities, key=lambda quantity: quantity.endswith("loss"))  # the errors first
    titles = [title(quantity if quantity.startswith("validation") else f"test_{quantity}") for quantity in quantities]
    headings = ["data", "preset", "settings", "epochs", "seeds", *titles, "training time", "device", "commit", "command"]
    rows = []
    for group in found:
        first = group[0]["config"]
        other = [words for words in settings(group[0]) if not words.startswith(("epochs ", "steps ", "env_steps "))]
        rows.append([
            *(first["data"], first.get("model", ""), ", ".join(other)),
            re.sub(" epochs?$", "", length(first)),
            ", ".join(f"[{record['seed']}](results/{record['path'].name})" for record in group),
            *(_spread(group, quantity) for quantity in quantities),
            time(mean_seconds(group)),
            ", ".join(dict.fromkeys(record["device"] for record in group)),
            ", ".join(dict.fromkeys(_commit(record) for record in group)),
            _command(group[0]),
        ])  # fmt: skip
    used = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    return markdown_table([headings[i] for i in used], [[row[i] for i in used] for row in rows])


def _commit(record: Record) -> str:
    """Return what ran: its commit in short, and whether files differed from it."""
    return " ".join(filter(None, [record["commit"][:7], "modified" if is_modified(record) else ""]))


def _command(record: Record) -> str:
    """Return the command as it was typed; for a record of a version with other defaults, one that means the same today."""
    if "format" in record:
        return f"`{record['command']}`"
    return f"`{command(record)}` (recorded by an earlier version: command rebuilt)"


def time(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def markdown_table(headings: list[str], rows: list[list[str]]) -> str:
    """Return rows of cells in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = ([cell.replace("|", r"\|").replace("\n", "<br>") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


# ---- READMEs -------------------------------------------------------------------------------------------------------

# Modules with other records than those of trainings. Each has `tables()`: README, marker there, Markdown.
OTHERS = (
    *("dl.modules.DataMining.ImageSearch.evaluate", "dl.modules.DataMining.OpenSet.evaluate", "dl.modules.Diffusion.score"),
    *("dl.modules.Generative.scores", "dl.modules.SelfSupervised.compare"),
    *(
        "dl.benchmarks.agents",
        "dl.benchmarks.characters",
        "dl.benchmarks.layers",
        "dl.benchmarks.optimizers",
        "dl.benchmarks.peers",
        "dl.benchmarks.readmes",
    ),
)


def models_tables() -> list[tuple[Path, str, str]]:
    """Return the table of each model's results: the README that it belongs to, its marker there, and its Markdown."""
    return [(catalogue.MODULES / name / "README.md", "results", results_table(name)) for name in catalogue.names()]


def other_tables() -> list[tuple[Path, str, str]]:
    """Return the tables of `OTHERS`, likewise."""
    return [table for name in OTHERS for table in importlib.import_module(name).tables()]


def front_tables() -> list[tuple[Path, str, str]]:
    """Return the tables of all models for the READMEs of the project, see front.py."""
    from dl.cli import front  # which formats figures by this file

    return front.tables()


def rewrite_readmes() -> list[str]:
    """Put the tables into all READMEs; for each, what was done and the table. Nothing is written before all are made."""
    return [rewrite(*table) for table in models_tables() + other_tables() + front_tables()]


def rewrite(path: Path, marker: str, table: str) -> str:
    """Replace what stands between the lines `<!-- marker -->` and `<!-- /marker -->`; without these, nothing."""
    shown = path.relative_to(catalogue.ROOT)
    if not path.exists():
        return f"{shown}: is not there"
    text = path.read_text(encoding="utf-8")
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    place = re.search(f"^{start}$.*?^{end}$", text, re.MULTILINE | re.DOTALL)
    if place is None:
        return f"{shown}: left alone, it has no lines {start} and {end}"
    new = f"{text[: place.start()]}{start}\n\n{table}\n\n{end}{text[place.end() :]}"
    if new != text:
        with atomic_write(path) as file:
            file.write(new.encode())
    return f"{shown}: {'up to date' if new == text else 'rewritten'}\n\n{table}\n"
