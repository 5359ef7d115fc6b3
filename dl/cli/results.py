"""Recorded results: a finished run becomes a small JSON file in its model's folder, these become tables in the READMEs."""

import dataclasses
import json
import re
import shlex
import statistics
import zlib
from pathlib import Path
from typing import Any

from dl.cli import catalogue
from dl.mytorch.config import TrainConfig, UserError, current_names
from dl.mytorch.files import atomic_write, write_json
from dl.mytorch.logger import History
from dl.mytorch.run import FREE

Record = dict[str, Any]

MODEL_HEADINGS = {
    "README.md": ["model", "paper", "parameters, FLOPs", "the paper's figure", "best test result here, training time"],
    # The same in Chinese.
    "README.zh-CN.md": [
        *("\u6a21\u578b", "\u8bba\u6587", "\u53c2\u6570\u91cf\u3001FLOPs", "\u8bba\u6587\u7ed3\u679c"),
        "\u672c\u9879\u76ee\u6700\u4f73\u6d4b\u8bd5\u7ed3\u679c\u3001\u8bad\u7ec3\u65f6\u95f4",
    ],
}


# ---- recording -----------------------------------------------------------------------------------------------------


def record(run: Path | str) -> Path:
    """Write the record of a finished run into the folder `results` of its model, and return the file's path.

    A run whose data has no test split is recorded with the validation of its best checkpoint.
    Raises `UserError` for a folder that holds no run, an unfinished one, or a run of no model of this project.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; a run is recorded from its folder, say runs/CNN/LeNet")
    described, history, speed = (_read(run / name) for name in ("config.json", "history.json", "speed.json"))
    described = catalogue.current(described)
    recipe, config = described["recipe"], described["config"]
    if recipe not in catalogue.names():
        raise UserError(f"{run} is a run of {recipe}, which is no model in {catalogue.MODULES}")
    untested = bool(history) and (run / "curves.png").exists()  # drawn at the end
    if not untested and (not history or "test" not in history[-1]):
        raise UserError(f"{run} is not finished, it has no test result: the same command, without --fresh, goes on")
    tested = history[-1] if "test" in history[-1] else None
    best = History(history).best() if tested is None else next(e for e in history if e["step"] == tested["step"])
    result = {
        **{name: described[name] for name in ("recipe", "command", "config")},
        **{name: described[name] for name in ("optimizer", "schedule") if name in described},
        "precision": described.get("precision", config.get("precision")),  # what was taken; config has what was asked for
        "file": described.get("file", "train"),
        "seed": config["seed"],
        **{name: described[name] for name in ("commit", "versions", "ranks")},
        **{name: speed[name] for name in ("device", "training_seconds", "seconds", "peak_memory_bytes")},
        "best_epoch": best["epoch"],
        **{"train": best["train"], "val": best["val"]},
        **({} if tested is None else {"test": tested["test"]}),
    }
    data = config["data"]
    if ":" in data:  # folder:PATH; another path is another set, however much of it a name can hold
        data = f"{data[:40]}-{zlib.crc32(data.encode()):08x}"
    words = [data, config.get("model", ""), *settings(result), f"seed{config['seed']}"]
    name = "-".join(re.sub(r"[^\w.-]", "", word) for word in words if word)
    path = catalogue.MODULES / recipe / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write_json(result, path)
    return path


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} does not hold a whole run: it has no {path.name}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error})") from None


def _config_class(record: Record) -> type[TrainConfig]:
    return catalogue.module(record["recipe"], record.get("file", "train")).Config


def as_taken(record: Record) -> dict[str, Any]:
    """Return the config of a run under today's names, with the precision that was taken, which may differ on another machine."""
    return current_names(_config_class(record), record["config"]) | ({"precision": record["precision"]} if "precision" in record else {})


def changed(record: Record) -> dict[str, Any]:
    """The fields in which a run differs from what its recipe's defaults are today, without those that change no result."""
    defaults = {field.name: field.default for field in dataclasses.fields(_config_class(record))}
    return {name: value for name, value in as_taken(record).items() if name not in FREE and value != defaults.get(name)}


def settings(record: Record) -> list[str]:
    """What is `changed`, as words: "lr 0.05", "no-mlm"; not data, preset and seed, which have columns of their own."""
    words = []
    for name, value in changed(record).items():
        if name not in ("data", "model", "seed"):
            words.append(f"{name} {value}" if not isinstance(value, bool) else name if value else f"no-{name}")
    return words


def command(record: Record) -> str:
    """What trains this way with today's recipe. The command that was given, maybe with other defaults, is in the record."""
    words = ["python", "-m", f"dl.modules.{record['recipe'].replace('/', '.')}.{record.get('file', 'train')}"]
    for name, value in changed(record).items():
        flag = name.replace("_", "-")
        if name != "seed":
            words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)


# ---- groups of seeds -----------------------------------------------------------------------------------------------


def groups(name: str) -> list[list[Record]]:
    """The records of a model, those together that differ in nothing but the seed, in the order of seeds."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for path in sorted((catalogue.MODULES / name / "results").glob("*.json")):
        record = _read(path)
        key = (record["config"]["data"], record["config"].get("model", ""), *settings(record))
        found.setdefault(key, []).append(record)
    return [sorted(found[key], key=lambda record: record["seed"]) for key in sorted(found)]


def scores(record: Record) -> dict[str, float]:
    """What a run is judged by: its test, or, where its data has none, its validation, in which names say so."""
    if "test" in record:
        return record["test"]
    return {f"validation_{quantity}": value for quantity, value in record["val"].items()}


def _spread(group: list[Record], quantity: str) -> str:
    """Mean and sample standard deviation over seeds of a quantity of `scores`: errors in percent, others as they are."""
    values = [scores(record)[quantity] for record in group if quantity in scores(record)]
    if not values:
        return ""
    scale, unit, digits = (100, " %", ".2f") if quantity.endswith("_error") else (1, "", ".4f")
    spread = f" \u00b1 {scale * statistics.stdev(values):{digits}}" if len(values) > 1 else ""  # plus-minus
    return f"{scale * statistics.mean(values):{digits}}{spread}{unit}"


def best_results(name: str) -> list[str]:
    """For each data set, the best group of seeds, judged by the first metric of the task, or its loss if it has none."""
    best: dict[str, tuple[float, str]] = {}
    for group in groups(name):
        config, names = group[0]["config"], list(scores(group[0]))
        quantity = next((name for name in names if not name.endswith("loss")), names[0])
        mean = statistics.mean(scores(record)[quantity] for record in group)
        seconds = _time(statistics.mean(record["training_seconds"] for record in group))
        how = ", ".join(filter(None, [config.get("model"), seconds]))
        if config["data"] not in best or mean < best[config["data"]][0]:
            words = f"{config['data']}: {_title(quantity)} {_spread(group, quantity)} ({how})"
            best[config["data"]] = (mean, words)
    return [words for _, words in best.values()]


def _title(quantity: str) -> str:
    return re.sub(r"top(\d+)", r"top-\1", quantity).replace("_", " ")


# ---- tables --------------------------------------------------------------------------------------------------------


def results_table(name: str) -> str:
    """The recorded results of a model as Markdown, a row for each group of seeds."""
    found = groups(name)
    if not found:
        return "No result is recorded yet."
    quantities = dict.fromkeys(quantity for group in found for quantity in scores(group[0]))
    quantities = sorted(quantities, key=lambda quantity: quantity.endswith("loss"))  # the errors first
    titles = [_title(quantity if quantity.startswith("validation") else f"test_{quantity}") for quantity in quantities]
    headings = ["data", "preset", "settings", "epochs", "seeds", *titles]
    rows = []
    for group in found:
        first = group[0]["config"]
        other = [words for words in settings(group[0]) if not words.startswith(("epochs ", "steps "))]
        rows.append([
            *(first["data"], first.get("model", ""), ", ".join(other)),
            f"{first['steps']} steps" if first["steps"] else str(first["epochs"]),
            str(len(group)),
            *(_spread(group, quantity) for quantity in quantities),
            _time(statistics.mean(record["training_seconds"] for record in group)),
            ", ".join(dict.fromkeys(record["device"] for record in group)),
            f"`{command(group[0])}`",
        ])  # fmt: skip
    headings += ["training time", "device", "command"]
    used = [i for i in range(len(headings)) if any(row[i] for row in rows)]
    return markdown_table([headings[i] for i in used], [[row[i] for i in used] for row in rows])


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def model_row(name: str) -> list[str]:
    """A model as people read it: folder, paper, parameters by preset, best results. A cell may have several lines."""
    paper = catalogue.paper(name)
    counts = [f"{preset} {count:,}" for preset, count in catalogue.parameters(name).items()]
    return [name, ", ".join(filter(None, [paper.name, paper.year])), "\n".join(counts), "\n".join(best_results(name))]


def models_rows() -> list[list[str]]:
    """All models as cells of Markdown, with links to their folders and papers, and what they cost."""
    rows = []
    for name in catalogue.names():
        paper = catalogue.paper(name)
        title = f"[{paper.title}]({paper.link})" if paper.link else paper.title
        costs = [f"{preset} {_short(*catalogue.cost(name, preset))}" for preset in catalogue.presets(name)]
        folder = f"[{name}](dl/modules/{name})"
        what = ", ".join(filter(None, [title, paper.year]))
        rows.append([folder, what, "\n".join(costs), catalogue.reported(name), "\n".join(best_results(name))])
    return rows


def _short(parameters: int, flops: int) -> str:
    """Both with three digits, or in full below a thousand: "11.7M, 3.63G"."""

    def brief(number: float) -> str:
        for unit in ("", "k", "M", "G", "T"):
            if number < 999.5:
                break
            number /= 1000
        return f"{number:.3g}{unit}"

    return f"{brief(parameters)}, {brief(flops)}"


def markdown_table(headings: list[str], rows: list[list[str]]) -> str:
    """Rows of cells in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = ([cell.replace("|", r"\|").replace("\n", "<br>") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


# ---- READMEs -------------------------------------------------------------------------------------------------------


def models_tables() -> list[tuple[Path, str, str]]:
    """The table of each model's results: the README that it belongs to, its marker there, and its Markdown."""
    return [(catalogue.MODULES / name / "README.md", "results", results_table(name)) for name in catalogue.names()]


def front_tables() -> list[tuple[Path, str, str]]:
    """The table of all models, for the READMEs of the project."""
    rows = models_rows()
    return [(catalogue.ROOT / name, "models", markdown_table(headings, rows)) for name, headings in MODEL_HEADINGS.items()]


def rewrite_readmes() -> list[str]:
    """Put the tables into all READMEs; for each, what was done and the table. Nothing is written before all are made."""
    return [rewrite(*table) for table in models_tables() + front_tables()]


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
