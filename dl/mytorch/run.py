"""A run's folder: who writes into it, what it was asked for, and what of it can be read. Only rank 0 writes."""

import contextlib
import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any, Iterator

from dl.mytorch.config import TrainConfig, UserError, current_names
from dl.mytorch.distributed import barrier, is_main, restarted, world_size
from dl.mytorch.files import CHECKSUMS, is_recorded, read_json, read_recorded_json, regular_file, write_recorded_json
from dl.mytorch.lock import locked
from dl.mytorch.optim import Shown

# Flags that change where and how fast a run goes, but not what it computes: a resumed run may change them.
FREE = {
    *("out", "fresh", "num_workers", "device", "parallel", "compile", "deterministic", "checkpoint_activations"),
    *("shard_size", "tensor_size", "sequence", "own_shards", "log_every", "save_every", "plots", "profile"),
}
FORMAT = 2  # of a run's folder; 1 had no checksums and no "format" in its config.json
FILES = (
    *("config.json", CHECKSUMS, "history.json", "speed.json", "summary.txt", "split.json", "names.json"),
    *("best.pt", "last.pt", "last-before.pt", "replay.bin", "last.pt.tmp", "best.pt.tmp"),  # .tmp: of format 1, left by a kill
)
DESCRIBED = {
    **{"recipe": str, "config": {str: (str, bool, int, float, None)}, "file?": str, "versions?": {str: str}},
    **dict.fromkeys(("command?", "commit?", "precision?", "optimizer?", "schedule?", "processor?", "capability?"), str),
    **dict.fromkeys(("ranks?", "format?", "threads?"), int),
}


# ---- reading -------------------------------------------------------------------------------------------------------


def read_described(run: Path | str) -> dict[str, Any]:
    """Return what a run's config.json says. Raises `UserError` when it is of no run of this project, damaged or changed."""
    path = Path(run) / "config.json"
    if not _is_of_a_run(read_json(path)):
        raise UserError(f"{path} is not of a run of this project")
    described = read_recorded_json(path, DESCRIBED)
    if described.get("format", 1) > FORMAT:
        raise UserError(f"{path} was written by a newer version of this project: format {described['format']}, not {FORMAT}")
    return described


def recorded_precision(config: TrainConfig) -> str | None:
    """Return the precision taken by the run that `config` resumes; None for a new run, or one that `open_run` refuses."""
    path = Path(config.out) / "config.json"
    if (config.fresh and not restarted()) or not path.exists() or not _is_of_a_run(read_json(path)):
        return None
    precision = taken_precision(read_described(config.out))
    if config.precision == "auto" and precision not in ("fp32", "bf16"):
        raise UserError(f"{path} says precision {precision!r}, which is neither fp32 nor bf16; --fresh starts the run over")
    return precision


def taken_precision(described: dict[str, Any]) -> str | None:
    """Return what a run took. Before `auto` there was, it was what was asked for."""
    return described.get("precision", described["config"].get("precision"))


def say_what_is_unverified(run: Path, *names: str) -> None:
    """A line on stderr that names those of the files that have no checksum, once for a run.

    Not for a folder without history.json, which no training has left: that holds weights, with a description by hand.
    """
    unverified = [name for name in names if (run / name).exists() and not is_recorded(run / name)]
    if unverified and is_main() and (run / "history.json").exists() and run.resolve() not in _SAID:
        _SAID.add(run.resolve())
        line = f"note: {run}: {', '.join(unverified)} written before checksums: not verified"
        print(line, file=sys.stderr, flush=True)


_SAID: set[Path] = set()  # the runs of which it was said


# ---- writing -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(config: TrainConfig) -> Iterator[None]:
    """Inside, no other process can train in the folder `config.out`. Raises `UserError` when one does, naming it."""
    if not is_main():
        yield
        return
    out = Path(config.out)
    _refuse_what_is_not_ours(out)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / "run.lock", f"{out} is in use: another process trains there"):
        for name in FILES:
            for left in out.glob(f"{name}.*.tmp"):  # by a process that was killed
                left.unlink(missing_ok=True)
        yield


def open_run(config: TrainConfig, precision: str | None = None, **made_by: Any) -> Path:
    """Claim the folder `config.out`: emptied of an old run with `fresh`, else new or of a run with the same config.

    precision: what the run takes; default: what the config asks for. A run is resumed with the precision that it took,
    which "auto" stands for.
    made_by: optimizer and schedule, described by the call that made them (`optim.shown`), if that is known.
    Raises `UserError` when it holds a run of another recipe or config, naming what differs, or files that are of no run.
    """
    out = Path(config.out)
    if is_main():
        _refuse_what_is_not_ours(out)
        out.mkdir(parents=True, exist_ok=True)
        if config.fresh and (out / "config.json").exists() and not restarted():
            _empty(out)
        asked = _describe(config) | {"precision": precision or config.precision}
        asked |= {name: repr(made) for name, made in made_by.items() if isinstance(made, Shown)}
        if (out / "config.json").exists():
            _refuse_another(out, asked, type(config))
        else:
            write_recorded_json(asked, out / "config.json")
    barrier()
    return out


def _empty(out: Path) -> None:
    for folder in [out / "tensorboard", *out.glob("shards-[0-9]*"), *out.glob("block[0-9]*")]:
        shutil.rmtree(folder, ignore_errors=True)
    # config.json last: until then it is a run.
    for path in [*out.glob("*.png"), *out.glob("vocabulary-*.json"), *(out / name for name in reversed(FILES))]:
        if path.is_dir() and not path.is_symlink():
            raise UserError(f"{path} is a folder, which no run makes there: delete it, or choose another --out")
        path.unlink(missing_ok=True)


def _refuse_another(out: Path, asked: dict[str, Any], config: type[TrainConfig]) -> None:
    """Raise `UserError` unless the run in `out` is what was asked for."""
    try:
        described = read_described(out)
    except UserError as error:
        raise UserError(f"{error}. --fresh starts the run over") from None
    preset = config.moved.get((described["recipe"], described["config"].get("model")))
    if preset is not None:
        described = {**described, "recipe": asked["recipe"], "config": {**described["config"], "model": preset}}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}  # of flags that there were not yet
    found = {**defaults, **current_names(config, described["config"]), "precision": taken_precision(described)}
    wanted = dict(asked["config"])
    if wanted["precision"] == "auto":
        wanted["precision"] = found["precision"]
    of_file = "notebook" not in (asked["file"], described.get("file"))  # whose folder is wherever it was started
    for name in ("recipe", "file") if of_file else ():
        found[name], wanted[name] = described.get(name, asked[name]), asked[name]
    differs = [
        f"{name} {found[name]} there, {wanted.get(name, '(none)')} asked for"
        for name in sorted(found, key=lambda name: (name not in ("recipe", "file"), name))
        if found[name] != wanted.get(name) and name not in FREE
    ]
    if differs:
        raise UserError(
            f"{out} holds a run with another config ({'; '.join(differs)}): choose another --out, or --fresh to delete that run"
        )


def _is_of_a_run(described: Any) -> bool:
    """Return whether this can be the content of a run's config.json, a name that many programs give to a file of theirs."""
    return isinstance(described, dict) and {"recipe", "config"} <= described.keys()


def _refuse_what_is_not_ours(out: Path) -> None:
    """Raise `UserError` for a folder in which a run would overwrite or delete another program's files."""
    found = [name for name in FILES if (out / name).exists() and name != CHECKSUMS]  # written before the first file
    ours = not found
    if (out / "config.json").exists():
        regular_file(out / "config.json")
        try:
            ours = _is_of_a_run(read_json(out / "config.json"))
        except UserError:
            ours = True  # damaged: `open_run` says so, or starts over
    if not ours:
        raise UserError(f"{out} holds {found[0]}, which is not of a run of this project: choose another --out")


def _describe(config: TrainConfig) -> dict[str, Any]:
    from dl.mytorch import provenance  # which a run that is resumed does not need

    recipe = Path(getattr(sys.modules.get(type(config).__module__), "__file__", None) or "notebook").resolve()
    return {
        "format": FORMAT,
        "recipe": "/".join(recipe.parts[-3:-1]),  # .../<Category>/<Model>/train.py
        "file": recipe.stem,
        "command": provenance.command(),
        "config": dataclasses.asdict(config),
        "commit": provenance.commit(recipe.parent),
        "versions": provenance.versions(),
        **provenance.machine(),
        "ranks": world_size(),
    }
