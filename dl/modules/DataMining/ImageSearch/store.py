"""The files of an index: written atomically, named by index.json with their checksums, and checked when they are read.

No file is replaced by another of its name, but for index.json. Windows refuses to replace or delete a file that is mapped:
there an old one stays until the next time.
"""

import contextlib
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from dl.mytorch.config import UserError
from dl.mytorch.files import atomic_write, check, read_json, regular_file, write_json

# The names of an index's files; others in the folder are somebody else's.
OWN = re.compile(r"\d{6}\.(npy|json)(\.(.*\.)?tmp)?|index\.json\.(.*\.)?tmp|(l2|cosine)\.faiss|faiss\.tmp")
ANEW = "--fresh rebuilds the index"

MANIFEST = {
    "source": str,
    "seed": int,
    "network": {"backbone": str, "weights": str, "preset": str, "layer": str, "size": int, "sha256": str},
    "shards": [{"name": str, "npy": str, "json": str}],
    "verdict": (None, {"distance": float, "pictures": int, "how": str}),
    "approximate": (None, {"l2": str, "cosine": str}),
}
ROWS = {"names": [str], "labels": [str], "stamps": [str], "skipped": {str: {"stamp": str, "cause": str}}}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content. Raises `UserError` for what is no regular file."""
    with open(regular_file(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str) -> None:
    """Raise `UserError` when a file of the index is missing, or is not what was written."""
    if not path.exists():
        raise UserError(f"{path} is missing: {ANEW}")
    if checksum(path) != expected:
        raise UserError(f"{path} was changed since it was written, or is damaged: {ANEW}")


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Write index.json with its own checksum: from now on, what it names is the index."""
    write_json({"sha256": _manifest_sum(about), "index": about}, folder / "index.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return what `write_manifest` wrote. Raises `UserError` when it is not that any more."""
    path = folder / "index.json"
    try:
        content = read_json(path, {"sha256": str, "index": object})
        if content["sha256"] != _manifest_sum(content["index"]):
            raise UserError(f"{path} was changed since it was written, or is damaged")
        about = check(content["index"], MANIFEST, str(path))
        if wrong := [shard["name"] for shard in about["shards"] if not re.fullmatch(r"\d{6}", shard["name"], re.ASCII)]:
            raise UserError(f"{path}: shards have numbers of six digits as names; got {wrong[0]!r:.60}")
    except UserError as error:
        raise UserError(f"{error}: {ANEW}") from None
    return about


def _manifest_sum(about: Any) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def read_shard(folder: Path, shard: dict[str, str], size: int) -> tuple[dict[str, Any], np.ndarray]:
    """The names, labels and stamps of a shard, and its vectors (N, size), memory-mapped; both files are verified before."""
    vectors, rows = (folder / f"{shard['name']}.{suffix}" for suffix in ("npy", "json"))
    verify(vectors, shard["npy"])
    verify(rows, shard["json"])
    about = read_json(rows, ROWS)
    count = len(about["names"])
    if len(about["labels"]) != count or len(about["stamps"]) != count:
        raise UserError(f"{rows} has another number of labels or stamps than of names: {ANEW}")
    try:
        with open(vectors, "rb") as file:  # np.load reads other formats too, and leaves a broken zip file open
            empty = None if count else np.lib.format.read_array(file, allow_pickle=False)
        found = np.lib.format.open_memmap(vectors, mode="c") if empty is None else empty
        if found.shape != (count, size) or found.dtype != np.float32:
            raise ValueError(f"{found.dtype} {found.shape}, not float32 {(count, size)}")
    except Exception as error:  # numpy raises nearly anything for a header that is none
        cause = " ".join(str(error).split())
        raise UserError(f"{vectors} does not hold the vectors of {rows.name} ({cause}): {ANEW}") from None
    return about, found


def add_shard(folder: Path, about: dict[str, Any], rows: dict[str, Any], vectors: np.ndarray) -> None:
    """Write the two files of a shard and put it into `about`, which is then to be written."""
    used = [shard["name"] for shard in about["shards"]]
    used += [path.name[:6] for path in folder.iterdir() if OWN.fullmatch(path.name) and path.name[:6].isdecimal()]
    name = f"{max(map(int, used), default=-1) + 1:06d}"
    array = io.BytesIO()
    np.save(array, vectors)
    contents = {"npy": array.getvalue(), "json": (json.dumps(rows, indent=1) + "\n").encode()}
    for suffix, content in contents.items():
        with atomic_write(folder / f"{name}.{suffix}") as file:
            file.write(content)
    about["shards"].append({"name": name, **{suffix: hashlib.sha256(part).hexdigest() for suffix, part in contents.items()}})


def make_folder(folder: Path) -> None:
    """Make the folder of an index, or take what is there. Raises `UserError` for one that holds something but no index."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder: choose another --index")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "index.json"
    ours = False
    if manifest.is_file():
        with open(manifest, "rb") as file:
            head = file.read(1000)  # others write files of this name too
        ours = head.startswith(b'{\n "sha256"') or b'\n "index": {\n  "source"' in head  # whichever is damaged
    if not ours and any(not re.fullmatch(r"index\.json\.(.*\.)?tmp", path.name) for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no index: choose another --index")


def remove_unnamed(folder: Path, about: dict[str, Any]) -> None:
    """Delete the index's files that index.json does not name: a kill came between their writing and its, or they are old.

    Those that cannot be deleted, as another process has mapped them, stay until the next time.
    """
    named = {f"{shard['name']}.{suffix}" for shard in about["shards"] for suffix in ("npy", "json")}
    named |= {f"{kind}.faiss" for kind in about["approximate"] or {}}
    for path in folder.iterdir():
        if OWN.fullmatch(path.name) and path.name not in named:
            with contextlib.suppress(OSError):
                path.unlink()
