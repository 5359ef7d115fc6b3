"""The folders of runs below runs/, by what their JSON files say: this imports no torch, and reads no weights."""

import json
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Sequence

from dl.cli import catalogue


class Folder(NamedTuple):
    """A run's folder as `python -m dl runs` shows it."""

    path: Path
    recipe: str  # "CNN/LeNet"
    config: dict[str, Any]
    history: list[dict[str, Any]]
    trained: bool  # there is a best.pt
    finished: bool
    changed: float  # when it was written last, in seconds since 1970


def found(root: Path) -> Iterator[Folder]:
    """Yield the runs below `root`, in the order of their names. What is damaged is left out."""
    for path in sorted(root.rglob("config.json")):
        if about := described(path.parent):
            about = catalogue.current(about)
            yield _folder(path.parent, about["recipe"], about["config"])


def described(path: Path) -> dict[str, Any]:
    """Return what the config.json of a run in the folder `path` says; {} if it is of none."""
    about = _read(path / "config.json")
    ours = isinstance(about, dict) and isinstance(about.get("recipe"), str) and isinstance(about.get("config"), dict)
    return about if ours else {}


def _folder(path: Path, recipe: str, config: dict[str, Any]) -> Folder:
    history = _read(path / "history.json")
    records = [each for each in history if isinstance(each, dict)] if isinstance(history, list) else []
    finished = is_finished(path, records, _read(path / "speed.json"))
    written = [each.stat().st_mtime for name in ("config.json", "history.json", "last.pt") if (each := path / name).is_file()]
    return Folder(path, recipe, config, records, (path / "best.pt").exists(), finished, max(written))


def is_finished(run: Path, history: Sequence[dict[str, Any]], speed: Any) -> bool:
    """Whether a run is over: tested or, on data without a test split, said to be in its speed.json or drawn (before 0.2)."""
    said = isinstance(speed, dict) and speed.get("finished") is True
    return bool(history) and ("test" in history[-1] or said or (run / "curves.png").exists())


def _read(path: Path) -> Any:
    """Return the value of a JSON file; None for one that is damaged, larger than any of a run, or no regular file."""
    try:
        if not path.is_file() or path.stat().st_size > 2**26:  # to open a pipe would be to wait for its writer
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
