"""Files that are complete or absent: written atomically, with a checksum beside them, and checked when they are read."""

import contextlib
import hashlib
import json
import math
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Iterator, NoReturn

from dl.mytorch.config import UserError

CHECKSUMS = "checksums.json"


# ---- writing -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Yield a file to write to that appears at `path` when the block ends, and only then.

    It has a unique temporary name until then, so that two writers cannot mix. Raises `UserError` if it cannot be written;
    what was at `path` before is kept.
    """
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
        with open(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)  # mkstemp keeps others out; a run is for everybody who may read the folder
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        # torch.save reports a full disk as a RuntimeError; a data worker that dies raises one wherever this process is.
        if not isinstance(error, (OSError, RuntimeError)) or "DataLoader worker" in str(error):
            raise
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error)
        kept = "; the copy from before is kept" if path.exists() else ""
        raise UserError(f"cannot write {path}: {reason}{room(path.parent)}{kept}") from error


def room(folder: Path | str) -> str:
    """Return what the disk of `folder` has left, as " (3.4 MB free there)"; "" if there is no such folder."""
    if not os.path.isdir(folder):
        return ""
    system = os.statvfs(folder) if hasattr(os, "statvfs") else None  # some file systems count no inodes: f_files is 0
    out = ", but it is out of inodes: delete some files" if system and system.f_files and not system.f_favail else ""
    return f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free there{out})"


_UMASK = os.umask(0)  # reading it is setting it
os.umask(_UMASK)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system has a way to."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def write_json(value: Any, path: Path | str) -> None:
    """Write `value` as indented JSON. Raises `ValueError` for NaN and infinity, which JSON does not have."""
    with atomic_write(path) as file:
        file.write(_json(value))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


# ---- reading -------------------------------------------------------------------------------------------------------


def regular_file(path: Path | str) -> Path:
    """Return `path` if it is a regular file or a link to one. Raises `UserError` for what may block or never end."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # a link to itself; a zero byte in the name
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'a device or pipe'}, not a file")
    return path


def read_json(path: Path | str, schema: Any = object, limit: int = 2**26) -> Any:
    """Return the value of a JSON file of at most `limit` bytes that has the structure `schema`, see `check`.

    Raises `UserError`, naming the file and the field, for everything else.
    """
    if regular_file(path).stat().st_size > limit:
        raise UserError(f"{path} is too large to be what it should be: more than {limit} bytes")
    try:
        text = Path(path).read_bytes().decode()
        value = json.loads(text, parse_constant=_not_json, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: no valid JSON ({error})") from None
    return check(value, schema, str(path))


def _not_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _not_json(digits)


def check(value: Any, schema: Any, where: str, field: str = "") -> Any:
    """Return `value` if it has the structure `schema`; raise `UserError`, naming `where` and the field, if not.

    A schema is `int` (below 2^63), `float` (any finite number), `str`, `bool`, `None` or `object` (anything); a tuple of
    alternatives; `[schema]` for a list; `{"name": schema, "name?": schema}` for a dict with required and optional keys, others
    being ignored; `{str: schema}` for a dict with any keys.
    """
    if isinstance(schema, tuple):
        for alternative in schema:
            with contextlib.suppress(UserError):
                return check(value, alternative, where, field)
        _refuse(value, " or ".join(map(_name, schema)), where, field)
    if isinstance(schema, list):
        if not isinstance(value, (list, tuple)):
            _refuse(value, "a list", where, field)
        for i, item in enumerate(value):
            check(item, schema[0], where, f"{field}[{i}]")
    elif isinstance(schema, dict):
        if not isinstance(value, dict):
            _refuse(value, "an object", where, field)
        for name in value if str in schema else ():
            check(value[name], schema[str], where, f"{field}.{name}")
        for name in (name for name in schema if name is not str):
            if name.rstrip("?") in value:
                check(value[name.rstrip("?")], schema[name], where, f"{field}.{name.rstrip('?')}")
            elif not name.endswith("?"):
                raise UserError(f"{where} lacks the field {f'{field}.{name}'.lstrip('.')}")
    elif not _is(value, schema):
        _refuse(value, _name(schema), where, field)
    return value


def _is(value: Any, schema: Any) -> bool:
    if schema is int or schema is float:
        kinds, largest = (int, 2**63 - 1) if schema is int else ((int, float), sys.float_info.max)
        return isinstance(value, kinds) and not isinstance(value, bool) and abs(value) <= largest  # NaN is not
    return value is None if schema is None else isinstance(value, schema)


def _name(schema: Any) -> str:
    if isinstance(schema, (list, dict)):
        return "a list" if isinstance(schema, list) else "an object"
    return {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", None: "null"}.get(
        schema, getattr(schema, "__name__", "")
    )


def _refuse(value: Any, wanted: str, where: str, field: str) -> NoReturn:
    raise UserError(f"{where}: {field.lstrip('.') or 'its content'} has to be {wanted}; got {shown(value)}")


def shown(value: Any) -> str:
    """Return the start of `value` as Python writes it, on one line."""
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}..."


# ---- checksums -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def recorded_write(path: Path | str) -> Iterator[BinaryIO]:
    """`atomic_write`, with the checksum of what was written recorded in checksums.json of the same folder, see `verify`."""
    path = Path(path)
    with atomic_write(path) as file:
        hashing = _Hashing(file)
        yield hashing  # type: ignore[misc]
        # Recorded before the file is renamed, with the values of the files before: killed in between, one of them is right.
        known = _checksums(path.parent)
        known[path.name] = [*known.get(path.name, []), hashing.sha256.hexdigest()][-4:]
        write_json(known, path.parent / CHECKSUMS)


class _Hashing:
    """A binary file whose SHA-256 is computed while it is written, in order."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()

    def write(self, part: bytes) -> int:
        self.sha256.update(part)
        return self.file.write(part)

    def flush(self) -> None:
        self.file.flush()


def write_recorded_json(value: Any, path: Path | str) -> None:
    """`write_json`, with a checksum as `recorded_write` records it."""
    with recorded_write(path) as file:
        file.write(_json(value))


def verify(path: Path | str) -> bool:
    """Return whether a checksum of the file `path` is recorded, after comparing it.

    Raises `UserError` if the file is another than the one that was written.
    """
    path = Path(path)
    if not is_recorded(path):
        return False
    with open(regular_file(path), "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found not in _checksums(path.parent).get(path.name, [found]):  # read afterwards: a run may have written meanwhile
        raise UserError(
            f"{path} was changed since it was written, or is damaged; if the change is meant, "
            f"delete its entry in {path.with_name(CHECKSUMS)}"
        )
    return True


def is_recorded(path: Path | str) -> bool:
    """Return whether there is a checksum of the file `path`."""
    path = Path(path)
    return path.name in _checksums(path.parent)


def read_recorded_json(path: Path | str, schema: Any = object, limit: int = 2**26) -> Any:
    """`read_json` of a file that `write_recorded_json` wrote. Raises `UserError` for a changed one too, see `verify`."""
    value = read_json(path, schema, limit)  # first: it says more of a damaged file
    verify(path)
    return value


def _checksums(folder: Path) -> dict[str, list[str]]:
    path = folder / CHECKSUMS
    return read_json(path, {str: [str]}) if path.exists() else {}
