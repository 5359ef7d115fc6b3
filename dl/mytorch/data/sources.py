"""The files of a data set: where they lie, how they are got, whether they are the published ones, how they are split."""

import gzip
import hashlib
import itertools
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.augment import Transform, compose
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.distributed import barrier, is_main
from dl.mytorch.files import regular_file

DATA = Path(__file__).parents[3] / "data"
LARGEST = 2**28  # bytes: no file of a published set here is larger, but what is in its place may unpack to more than memory


class Source(NamedTuple):
    """Where a set comes from and what its files have to be."""

    places: tuple[Path, ...]  # folders to look in; the first that holds all files wins
    checksums: dict[str, str]  # file -> MD5 or SHA-256 of its content; it may lie there gzipped, as file.gz
    help: str  # what to do when it is nowhere
    fetch: Callable[[Any, str], Any] | None = None  # (torchvision.datasets, folder): download it into folders in there


def find(source: Source) -> Path | None:
    """The folder on this machine that holds all files of a set, or None: one of its places, or a folder in one of these."""
    inside = (path for place in source.places if place.is_dir() for path in sorted(place.iterdir()) if path.is_dir())
    folders = itertools.chain(source.places, inside)
    return next((path for path in folders if all(_file(path, name).exists() for name in source.checksums)), None)


def read(name: str, source: Source) -> dict[str, bytes]:
    """The content of all files of the set `name`, downloaded if they are nowhere: what was altered is never trained on.

    Raises `UserError` when the set is not to be had, or a file is damaged or not the published one.
    """
    if is_main() and find(source) is None:
        _download(name, source)
    barrier()  # the other ranks wait for the download of the first
    folder = find(source)
    if folder is None:
        raise UserError(f"{name} is not in {source.places[0]}: {source.help}")
    return {file: read_checked(_file(folder, file), checksum) for file, checksum in source.checksums.items()}


def read_bytes(path: Path, limit: int = -1) -> bytes:
    """The content of a file, unpacked if its name ends in .gz; of a longer one than `limit`, the first `limit` bytes.

    Raises `UserError` when it is no regular file, cut off or damaged.
    """
    regular_file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return file.read(limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is cut off or damaged ({error}): delete it, and get it again") from None


def read_checked(path: Path, checksum: str) -> bytes:
    """The content of a file, gzipped or not, if its MD5 or SHA-256 is `checksum`; else raises `UserError`."""
    content = read_bytes(path, LARGEST)
    algorithm = {32: "md5", 64: "sha256"}[len(checksum)]
    if hashlib.new(algorithm, content, usedforsecurity=False).hexdigest() != checksum:
        raise UserError(f"{path} is not the published file (its checksum differs): delete it, and get it again")
    return content


def splits(
    config: TrainConfig,
    names: tuple[str, ...],
    load: Callable[[str], tuple[Batch, Batch]],
    to_input: Transform,
    augment: Transform | None,
) -> Splits:
    """The set that `config.data` names; `load` gives its training and its test set. A tenth of the former validates.

    `to_input` makes bytes what a network reads; `augment` comes before it, in training only.
    Raises `UserError` when `config.data` is none of `names`.
    """
    if config.data not in names:
        raise UserError(f"--data {config.data}: this recipe's function loads {' or '.join(names)}")
    train, test = load(config.data)
    order = torch.randperm(len(train["labels"]), generator=torch.Generator().manual_seed(config.seed))
    held_out = len(order) // 10
    val, train = ({k: v[part] for k, v in train.items()} for part in (order[:held_out], order[held_out:]))
    augmented = to_input if augment is None else compose(augment, to_input)
    return Splits(
        Loader(train, config.batch_size, shuffle=True, seed=config.seed, transform=augmented),
        Loader(val, config.batch_size, transform=to_input),
        Loader(test, config.batch_size, transform=to_input),
    )


def _file(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else folder / f"{name}.gz"


def _download(name: str, source: Source) -> None:
    """Let torchvision fetch the set into data/: nothing is put there before all of it has come."""
    reason = "it cannot be downloaded"
    if source.fetch:
        from dl.mytorch.torchvision_compat import import_torchvision

        print(f"{name} is on none of the usual places of this machine; downloading it into {DATA}", flush=True)
        DATA.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=DATA, prefix=".download-") as folder:
            try:
                source.fetch(import_torchvision().datasets, folder)
                for file in (path for path in Path(folder).glob("*/**/*") if path.is_file()):
                    place = DATA / file.relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, place)
                return
            except (OSError, RuntimeError) as error:
                reason = f"the download failed ({' '.join(str(error).split())})"
    places = ", ".join(str(place) for place in source.places)
    raise UserError(f"{name} was not found: looked in {places}; {reason}. What helps: {source.help}")
