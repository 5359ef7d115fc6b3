"""The files of a data set: where they lie, how they are got, whether they are the published ones, how they are split."""

import gzip
import hashlib
import http.client
import io
import itertools
import os
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Callable, Mapping, NamedTuple, TypeVar

import torch

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.augment import Transform, compose
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.distributed import barrier, is_main
from dl.mytorch.files import atomic_write, regular_file

DATA = Path(__file__).parents[3] / "data"
LARGEST = 2**28  # bytes: no file of a published set here is larger, but what is in its place may unpack to more than memory

T = TypeVar("T")


class Remote(NamedTuple):
    """Where a file can be downloaded, and its checksum."""

    url: str
    blob: str  # git's name for what is there: sha1 of "blob <bytes>\0<content>"
    member: str = ""  # of a zip archive: the file in it


class Source(NamedTuple):
    """Where a set comes from and what its files have to be."""

    places: tuple[Path | str, ...]  # folders to look in, relative ones below data/; the first that holds all files wins
    # Of a file the MD5 or SHA-256 of its content, which may lie there gzipped, as file.gz; or where it can be downloaded
    # uncompressed, if anywhere.
    files: Mapping[str, str | Remote | None]
    help: str  # what to do when it is nowhere
    fetch: Callable[[Any, str], Any] | None = None  # (torchvision.datasets, folder): download all into folders in there

    @property
    def folders(self) -> tuple[Path, ...]:
        """Return the places as paths."""
        return tuple(DATA / place for place in self.places)


def find(source: Source) -> Path | None:
    """The folder on this machine that holds all files of a set, or None: one of its places, or a folder in one of these."""
    inside = (path for place in source.folders if place.is_dir() for path in sorted(place.iterdir()) if path.is_dir())
    folders = itertools.chain(source.folders, inside)
    return next((path for path in folders if all(_file(path, name, source).exists() for name in source.files)), None)


def get(name: str, source: Source) -> Path:
    """Return the folder with all files of the set `name`, downloaded if they are nowhere. All ranks may call it.

    Raises `UserError` when the set is unavailable.
    """
    if is_main() and find(source) is None:
        _fetch(name, source, source.fetch) if source.fetch else _download(source)
    barrier()  # the other ranks wait for the download of the first
    folder = find(source)
    if folder is None:
        raise UserError(f"{name} is not in {source.folders[0]}: {source.help}")
    return folder


def read(name: str, source: Source) -> dict[str, bytes]:
    """Return the content of all files of the set `name`, which all have checksums: what was altered is never trained on.

    Raises `UserError` when the set is unavailable, or a file is damaged or not the published one.
    """
    folder = get(name, source)
    return {file: read_checked(_file(folder, file, source), str(checksum)) for file, checksum in source.files.items()}


def read_bytes(path: Path, limit: int = -1) -> bytes:
    """Return the content of a file, unpacked if its name ends in .gz; of a longer one than `limit`, the first `limit` bytes.

    Raises `UserError` when it is no regular file, cut off or damaged.
    """
    regular_file(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            return file.read(limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is cut off or damaged ({error}): delete it, and get it again") from None


def read_checked(path: Path, checksum: str) -> bytes:
    """Return the content of a file, gzipped or not, if its MD5 or SHA-256 is `checksum`; else raises `UserError`."""
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
    """Return the set that `config.data` names; `load` gives its training and its test set. A tenth of the former validates.

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


def _file(folder: Path, name: str, source: Source) -> Path:
    packed = isinstance(source.files[name], str) and not (folder / name).exists()
    return folder / (f"{name}.gz" if packed else name)


def held_out(parts: dict[str, list[T]], seed: int) -> dict[str, list[T]]:
    """Return "train", "val" and "test": of "train", a tenth drawn by `seed` for each that is missing, one example at least."""
    train = parts["train"]
    missing = [part for part in ("val", "test") if part not in parts]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist() if missing else range(len(train))
    share = max(1, len(train) // 10)
    held = {part: [train[i] for i in order[n * share : (n + 1) * share]] for n, part in enumerate(missing)}
    return parts | held | {"train": [train[i] for i in order[len(missing) * share :]]}


def _fetch(name: str, source: Source, fetch: Callable[[Any, str], Any]) -> None:
    """Let torchvision fetch the set into data/: nothing is put there before all of it has come."""
    from dl.mytorch.torchvision_compat import import_torchvision

    print(f"{name} is on none of the usual places of this machine; downloading it into {DATA}", flush=True)
    DATA.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=DATA, prefix=".download-") as folder:
        try:
            fetch(import_torchvision().datasets, folder)
            for file in (path for path in Path(folder).glob("*/**/*") if path.is_file()):
                place = DATA / file.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, place)
        except (OSError, RuntimeError) as error:
            places = ", ".join(str(place) for place in source.folders)
            raise UserError(
                f"{name} was not found: looked in {places}; the download failed ({' '.join(str(error).split())}). "
                f"What helps: {source.help}"
            ) from None


def unpack(url: str, prefix: str, folder: Path) -> None:
    """Download a zip archive and put its files below `prefix` into `folder`. Raises `OSError` for what is no such archive."""
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            content = response.read(LARGEST + 1)
    except http.client.HTTPException as error:
        raise OSError(f"{url} was cut off: {error}") from None
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        members = [member for member in archive.infolist() if member.filename.startswith(prefix) and not member.is_dir()]
        if not members or sum(member.file_size for member in members) > 2 * LARGEST:
            raise OSError(f"the archive at {url} is not what it was")
        for member in members:
            parts = PurePosixPath(member.filename.removeprefix(prefix)).parts
            if not {"..", "/"}.isdisjoint(parts) or "\\" in member.filename or ":" in member.filename:
                raise OSError(f"the archive at {url} holds {member.filename!r}, which is no name of a file in it")
            place = folder.joinpath(*parts)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(archive.read(member))
    except (zipfile.BadZipFile, zlib.error) as error:
        raise OSError(f"what {url} gives is no zip archive: {error}") from None


def _download(source: Source) -> None:
    """Put each missing file into the first place, complete and as published."""
    for path, remote in ((source.folders[0] / name, remote) for name, remote in source.files.items()):
        if path.exists():
            continue
        if not isinstance(remote, Remote):
            raise UserError(f"{path} does not exist. What helps: {source.help}")
        content = _published(remote, path, source.help)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(content)


def _published(remote: Remote, path: Path, help: str) -> bytes:
    print(f"{path} does not exist; downloading it from {remote.url}", flush=True)
    try:
        with urllib.request.urlopen(remote.url, timeout=60) as response:
            content = response.read()
    except (OSError, http.client.HTTPException) as error:  # no network, no such page, cut off
        raise UserError(f"{path} does not exist, and {remote.url} cannot be downloaded ({error}). What helps: {help}") from None
    if hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != remote.blob:
        raise UserError(f"{remote.url} no longer gives the published file (its checksum differs). What helps: {help}")
    return zipfile.ZipFile(io.BytesIO(content)).read(remote.member) if remote.member else content
