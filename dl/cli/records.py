"""Records: what ran and what came of it, a small JSON file in the folder `results` of a model. Tables are made of them alone."""

import dataclasses
import re
import shlex
import zlib
from pathlib import Path
from typing import Any

from dl.cli import catalogue, folders
from dl.mytorch.config import TrainConfig, UserError, current_names
from dl.mytorch.files import read_json, read_recorded_json, write_json
from dl.mytorch.logger import QUANTITIES, SPEED, read_history
from dl.mytorch.run import FREE, read_described

Record = dict[str, Any]

TRAINED = {
    **{"recipe": str, "command": str, "config": {str: (str, bool, int, float, None)}, "seed": int, "commit": str},
    **{"versions": {str: str}, "ranks?": int, "file?": str, "precision?": (str, None), "optimizer?": str, "schedule?": str},
    **{"device": str, "training_seconds": float, "seconds": float, "peak_memory_bytes": (int, None), "best_epoch": int},
    **{"train": QUANTITIES, "val": QUANTITIES, "test?": QUANTITIES},
}


def write(record: Record, path: Path) -> Path:
    """Write a record, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, path)
    return path


def read(folder: Path, schema: Any) -> list[Record]:
    """Return the records in a folder, in the order of their files. Raises `UserError` for one that has another structure."""
    return [read_json(path, schema) for path in sorted(folder.glob("*.json"))]


def of_model(name: str) -> list[Record]:
    """Return the records of a model's trainings."""
    return read(catalogue.MODULES / name / "results", TRAINED)


def record(run: Path | str) -> Path:
    """Write the record of a finished run into the folder `results` of its model, and return the file's path.

    A run whose data has no test split is recorded with the validation of its best checkpoint.
    Raises `UserError` for a folder that holds no run, an unfinished one, or a run of no model of this project.
    """
    run = Path(run)
    if not run.is_dir():
        raise UserError(f"{run} is not a folder; a run is recorded from its folder, say runs/CNN/LeNet")
    if missing := [name for name in ("config.json", "history.json", "speed.json") if not (run / name).exists()]:
        raise UserError(f"{run} does not hold a whole run: it has no {missing[0]}")
    described = catalogue.current(read_described(run))
    history, speed = read_history(run / "history.json"), read_recorded_json(run / "speed.json", SPEED)
    recipe, config = described["recipe"], described["config"]
    if recipe not in catalogue.names():
        raise UserError(f"{run} is a run of {recipe}, which is no model in {catalogue.MODULES}")
    if not folders.is_finished(run, history, speed):
        raise UserError(f"{run} is not finished, it has no test result: the same command, without --fresh, goes on")
    tested = history[-1] if "test" in history[-1] else None
    best = history.best() if tested is None else next(e for e in history if e["step"] == tested["step"])
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
    return write(result, catalogue.MODULES / recipe / "results" / f"{file_name(result)}.json")


def file_name(record: Record) -> str:
    """Return data, preset, settings and seed, "fashion_mnist-modern-lr0.05-seed0": recorded again, a run replaces itself."""
    config = record["config"]
    data = config["data"]
    if ":" in data:  # folder:PATH; another path is another set, however much of it a name can hold
        data = f"{data[:40]}-{zlib.crc32(data.encode()):08x}"
    words = [data, config.get("model", ""), *settings(record), f"seed{config['seed']}"]
    return "-".join(re.sub(r"[^\w.-]", "", word) for word in words if word)


# ---- what a record says of its config ----------------------------------------------------------------------------------


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
