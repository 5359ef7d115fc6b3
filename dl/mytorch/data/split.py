"""What a run records of its data: its parts, so that it never tests on what it was trained on, and the names of the classes."""

from itertools import chain
from pathlib import Path
from typing import Mapping, Sequence

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.loader import Splits
from dl.mytorch.distributed import is_main, restarted
from dl.mytorch.files import read_json, verify, write_recorded_json

FILE = "split.json"  # in the run's folder
Split = Mapping[str, list[str]]  # "train", "val" and "test" -> the names of their examples, or of what these are in


def record(data: Splits, folder: Path) -> None:
    """Write what explains `data` into the folder of a new run: its vocabularies, names and split. All ranks may call it.

    Raises `UserError` if the folder is of a run with others.
    """
    for name, vocabulary in data.vocabularies.items():
        vocabulary.keep(folder / f"vocabulary-{name}.json")
    if data.names:
        record_names(data.names, folder)
    if data.split is not None:
        record_split(data.split, folder)


def check_split(split: Split, config: TrainConfig) -> None:
    """Raise `UserError` unless `split` is that of the run in `config.out`, if there is one that is not to be started over."""
    path = Path(config.out) / FILE
    if path.exists() and not (config.fresh and not restarted()):
        _compare(split, path)


def record_split(split: Split, folder: Path) -> None:
    """Write the split of a new run into its folder. All ranks may call it. Raises `UserError` if another one is there."""
    path = folder / FILE
    if path.exists():
        _compare(split, path)
    elif is_main():
        write_recorded_json(split, path)


def _compare(split: Split, path: Path) -> None:
    verify(path)
    recorded = read_json(path, dict.fromkeys(("train", "val", "test"), [str]), limit=2**30)
    if split == recorded:
        return
    here, there = (set(chain(*parts.values())) for parts in (split, recorded))
    changes = {"new": here - there, "gone": there - here}
    shown = "; ".join(f"{len(names)} {kind}, {min(names)} first" for kind, names in changes.items() if names)
    raise UserError(
        f"the data is not what the run in {path.parent} was begun with ({shown or 'its parts are others'}), and it could be "
        "tested on what it was trained on: undo that, choose another --out, or --fresh to start over"
    )


def names_file(run: Path | str) -> Path:
    """Return the file with the names of a run's classes, which is there if its data set had some of its own."""
    earlier = Path(run) / "vocabulary-classes.json"  # in runs of version 0.1
    return earlier if earlier.exists() else Path(run) / "names.json"


def record_names(names: Sequence[str], folder: Path) -> None:
    """Write the names of the classes into a new run's folder. All ranks may call it. Raises `UserError` if others are there."""
    path = names_file(folder)
    if not path.exists():
        if is_main():
            write_recorded_json(list(names), path)
    elif (recorded := read_names(path)) != tuple(names):
        differ = (f"class {i} is {a} there, {b} here" for i, (a, b) in enumerate(zip(recorded, names)) if a != b)
        raise UserError(f"{path} has {len(recorded)} classes, the data {len(names)}: {next(differ, 'some are gone')}")


def read_names(path: Path) -> tuple[str, ...]:
    """Return the names in such a file. Raises `UserError` unless there is one name or more, all different."""
    names = read_json(path, [str])
    verify(path)
    if not names or len(set(names)) < len(names):
        raise UserError(f"{path} has to name the classes, each once")
    return tuple(names)
