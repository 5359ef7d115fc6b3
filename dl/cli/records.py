"""Records: what ran and its results, a small JSON file in the folder `results` of a model. All tables are made of records."""

import dataclasses
import hashlib
import re
import shlex
import zlib
from pathlib import Path
from typing import Any

import torch

from dl.cli import catalogue, curves, folders
from dl.mytorch import introspect, provenance
from dl.mytorch.config import TrainConfig, UserError, current_names
from dl.mytorch.distributed import device
from dl.mytorch.files import atomic_write, check, read_json, read_recorded_json, regular_file, verify
from dl.mytorch.logger import QUANTITIES, SPEED, History, device_name, read_history
from dl.mytorch.run import FREE, read_described

Record = dict[str, Any]

FORMAT = 2  # of a training's record; 1 had no "format", and not what `MEASURED` has
TRAINED = {
    **{
        "format?": int,
        "recipe": str,
        "command": str,
        "config": {str: (str, bool, int, float, None)},
        "seed": int,
        "commit": str,
    },
    **{"versions": {str: str}, "ranks?": int, "file?": str, "precision?": (str, None), "optimizer?": str, "schedule?": str},
    **{"device": str, "training_seconds": float, "seconds": float, "peak_memory_bytes": (int, None), "best_epoch": int},
    **{"train": QUANTITIES, "val": QUANTITIES, "test?": QUANTITIES, "curve?": curves.CURVE},
}
MEASURED = {
    **{"format": int, "ranks": int, "file": str, "processor": str, "capability": str, "threads": int},
    **{
        "unit?": str,
        "items_per_second?": float,
        "examples_per_second": float,
        "share_of_peak": (float, None),
        "sha256": {"best.pt": str, "history.json": str},
    },
}


def write(record: Record, path: Path) -> Path:
    """Write a record, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(curves.as_json(record))
    return path


def read(folder: Path, schema: Any) -> list[Record]:
    """Return the records in a folder, in the order of their files. Raises `UserError` for one that has another structure."""
    return [read_json(path, schema) for path in sorted(folder.glob("*.json"))]


def of_model(name: str) -> list[Record]:
    """Return the records of a model's trainings, each with the "path" of its file.

    Raises `UserError`, naming the file and the field, for one that is not as a record of its format is.
    """
    found = []
    for path in sorted((catalogue.MODULES / name / "results").glob("*.json")):
        record = read_json(path, TRAINED)
        if record.get("format", 1) > FORMAT:
            raise UserError(f"{path} was recorded by a newer version of this project: format {record['format']}, not {FORMAT}")
        found.append({**(check(record, MEASURED, str(path)) if "format" in record else record), "path": path})
    return found


def is_modified(record: Record) -> bool:
    """Return whether what ran is not, or cannot be told to be, what its commit holds."""
    return not record["commit"] or record["commit"].endswith("+")


def scores(record: Record) -> dict[str, float]:
    """Return what a run is judged by: its test, or, where its data has none, its validation, in which names say so."""
    part, prefix = ("test", "") if "test" in record else ("val", "validation_")
    return {f"{prefix}{quantity}": value for quantity, value in record[part].items() if value is not None}


# ---- recording -----------------------------------------------------------------------------------------------------


def best_record(history: History) -> dict[str, Any] | None:
    """Return the record of the checkpoint that was tested, or before a test that of the lowest loss; None without any."""
    if history.test is None:
        return history.best()
    return next(each for each in history if each["step"] == history[-1]["step"])


def record(run: Path | str, allow_dirty: bool = False) -> Path:
    """Write the record of a finished run into the folder `results` of its model, and return the file's path.

    A run whose data has no test split is recorded with the validation of its best checkpoint.
    Raises `UserError` for a folder that holds no run, an unfinished one, or a run of no model of this project, and, unless
    `allow_dirty`, for one that was trained by code that is in no commit.
    """
    run = Path(run)
    described, history, speed = _finished(run)
    verify(run / "best.pt")
    if is_modified(described) and not allow_dirty:
        code = "in no git repository" if not described["commit"] else f"from a modified tree, commit {described['commit'][:7]}"
        raise UserError(
            f"{run} was trained {code}: nobody can train it again. Commit and train again, or record it by --allow-dirty"
        )
    recipe, config = described["recipe"], described["config"]
    tested = history[-1] if "test" in history[-1] else None
    best = best_record(history)
    if best is None:
        raise UserError(f"{run} has neither a test nor a validation loss by which it could be judged")
    result = {
        "format": FORMAT,
        **{name: described[name] for name in ("recipe", "command", "config")},
        **{name: described[name] for name in ("optimizer", "schedule") if name in described},
        "precision": described.get("precision", config.get("precision")),  # what was taken; config has what was asked for
        "file": described.get("file", "train"),
        "seed": config["seed"],
        **{name: described[name] for name in ("commit", "versions", "ranks", "processor", "capability", "threads")},
        **{name: speed[name] for name in ("device", "training_seconds", "seconds", "examples_per_second", "peak_memory_bytes")},
        **{name: speed[name] for name in ("unit", "items_per_second") if name in speed},
        "share_of_peak": share_of_peak(run, described, speed),
        "sha256": {name: sha256(run / name) for name in ("best.pt", "history.json")},
        "best_epoch": best["epoch"],
        **{"train": best["train"], "val": best["val"]},
        **({} if tested is None else {"test": tested["test"]}),
        "curve": curves.points(history),
    }
    return write(
        check(result, TRAINED | MEASURED, str(run)), catalogue.MODULES / recipe / "results" / f"{file_name(result)}.json"
    )


def _finished(run: Path) -> tuple[dict[str, Any], History, dict[str, Any]]:
    """Return what config.json, history.json and speed.json of a finished run say. Raises `UserError` for any other folder."""
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; a run is recorded from its folder, say runs/CNN/LeNet")
    if missing := [name for name in ("config.json", "history.json", "speed.json", "best.pt") if not (run / name).exists()]:
        raise UserError(f"{run} does not hold a whole run: it has no {missing[0]}")
    described = catalogue.current(read_described(run))
    history, speed = read_history(run / "history.json"), read_recorded_json(run / "speed.json", SPEED)
    if described["recipe"] not in catalogue.names():
        raise UserError(f"{run} is a run of {described['recipe']}, which is no model in {catalogue.MODULES}")
    if not folders.is_finished(run, history, speed):
        raise UserError(f"{run} is not finished, it has no test result: the same command, without --fresh, resumes it")
    if missing := [name for name in ("command", "commit", "versions", "ranks", "threads") if name not in described]:
        raise UserError(
            f"{run} was trained by an earlier version, which did not note its {missing[0]}: train it again to record it"
        )
    return described, history, speed


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal digits."""
    with open(regular_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def share_of_peak(run: Path, described: dict[str, Any], speed: dict[str, Any]) -> float | None:
    """Return the FLOPs per second of a training, over those that this machine reaches in large matrix products.

    A backward pass counts as two forward ones; what else a step computes does not count. None for several processes, a run
    without a summary or on the nodes of one graph, and one that was trained on another machine than this.
    """
    a_pass_each = speed.get("unit") != "node"  # nodes share a pass over their graph
    there = described["ranks"] == 1 and (run / "summary.txt").exists() and a_pass_each
    if not there or described["processor"] != provenance.machine()["processor"]:
        return None
    flops = introspect.flops_of(run / "summary.txt")
    with introspect.threads(described["threads"]):
        where = device(described["config"]["device"])
        if device_name(where) != speed["device"]:
            return None
        peak = introspect.peak_flops(where, torch.bfloat16 if described.get("precision") == "bf16" else torch.float32)
    return round(3 * flops * speed["examples_per_second"] / peak, 4)


def file_name(record: Record) -> str:
    """Return data, preset, settings and seed, "fashion_mnist-modern-lr0.05-seed0": recorded again, a run replaces itself."""
    config = record["config"]
    data = config["data"]
    if ":" in data:  # folder:PATH; another path is another set, however much of it a name can hold
        data = f"{data[:40]}-{zlib.crc32(data.encode()):08x}"
    words = [data, stage(record), config.get("model", ""), *settings(record), f"seed{config['seed']}"]
    return "-".join(re.sub(r"[^\w.-]", "", word) for word in words if word)


def stage(record: Record) -> str:
    """Return which file of the model's folder was run, "finetune"; "" for train.py. Another one has defaults of its own."""
    file = record.get("file", "train")
    return "" if file == "train" else file


# ---- what a record says of its config ----------------------------------------------------------------------------------


def config_class(record: Record) -> type[TrainConfig]:
    """Return the class of the record's config, as its recipe has it today."""
    return catalogue.module(record["recipe"], record.get("file", "train")).Config


def as_taken(record: Record) -> dict[str, Any]:
    """Return the config of a run under today's names, with the precision it used, which may differ on another machine."""
    return current_names(config_class(record), record["config"]) | (
        {"precision": record["precision"]} if "precision" in record else {}
    )


def changed(record: Record) -> dict[str, Any]:
    """The fields in which a run differs from what its recipe's defaults are today, without those that change no result."""
    defaults = {field.name: field.default for field in dataclasses.fields(config_class(record))}
    return {name: value for name, value in as_taken(record).items() if name not in FREE and value != defaults.get(name)}


def is_default(record: Record) -> bool:
    """Return whether a run is what its recipe's defaults of today ask for, with any seed and what `auto` took there.

    The run that it began from may be in any folder, as its own may.
    """
    asked = current_names(config_class(record), record["config"])
    return not changed({**record, "config": asked, "precision": asked["precision"]}).keys() - {"seed", "init_from"}


def settings(record: Record) -> list[str]:
    """Return what is `changed`, as words: "lr 0.05", "no-mlm"; not data, preset and seed, which have columns of their own."""
    words = []
    for name, value in changed(record).items():
        if name not in ("data", "model", "seed"):
            words.append(f"{name} {value}" if not isinstance(value, bool) else name if value else f"no-{name}")
    return words


def command(record: Record) -> str:
    """Return what trains this way with today's recipe.

    The command that was given, maybe with other defaults, is in the record.
    """
    words = ["python", "-m", f"dl.modules.{record['recipe'].replace('/', '.')}.{record.get('file', 'train')}"]
    for name, value in changed(record).items():
        flag = name.replace("_", "-")
        if name != "seed":
            words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    return shlex.join(words)
