"""Which examples are in which part of a run's data: kept with the run, so that it never tests on what it was trained on."""

from itertools import chain
from pathlib import Path

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.distributed import is_main, restarted
from dl.mytorch.files import read_json, verify, write_recorded_json

FILE = "split.json"  # in the run's folder
Split = dict[str, list[str]]  # "train", "val" and "test" -> the names of their examples, or of what these are in


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
