"""The files of an index: written whole, named by index.json with their checksums, never trusted when read."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from dl.mytorch.config import UserError
from dl.mytorch.files import atomic_write, write_json

OWN = re.compile(r"\d{6}\.(npy|json)(\.\w+\.tmp)?|(l2|cosine)\.faiss|faiss\.tmp")  # files with other names are not the index's


def checksum(path: Path) -> str:
    """SHA-256 of a file's content."""
    return _sha256(path.read_bytes())


def check(path: Path, expected: str) -> bytes:
    """The content of a file of the index. Raises `UserError` when it is missing or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: --fresh makes the index anew") from None
    if _sha256(content) != expected:
        raise UserError(f"{path} is damaged (its checksum differs): --fresh makes the index anew")
    return content


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    """Write index.json with its own checksum: from now on, what it names is the index."""
    write_json({"sha256": _sha256(json.dumps(about).encode()), "index": about}, folder / "index.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """What `write_manifest` wrote. Raises `UserError` when it is damaged."""
    path = folder / "index.json"
    try:
        content = json.loads(path.read_bytes())
        whole = content["sha256"] == _sha256(json.dumps(content["index"]).encode())
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged (its checksum differs): --fresh makes the index anew")
    return content["index"]


def read_shard(folder: Path, shard: dict[str, str]) -> dict[str, Any]:
    """The names, labels and stamps of a shard, after a look at the checksums of both of its files."""
    check(folder / f"{shard['name']}.npy", shard["npy"])
    return json.loads(check(folder / f"{shard['name']}.json", shard["json"]))


def add_shard(folder: Path, about: dict[str, Any], rows: dict[str, Any], vectors: np.ndarray) -> None:
    """Write the two files of a shard and put it into `about`, which is then to be written."""
    name = f"{max((int(shard['name']) for shard in about['shards']), default=-1) + 1:06d}"
    with atomic_write(folder / f"{name}.npy") as file:
        np.save(file, vectors)
    write_json(rows, folder / f"{name}.json")
    sums = {suffix: checksum(folder / f"{name}.{suffix}") for suffix in ("npy", "json")}
    about["shards"].append({"name": name, **sums})


def make_folder(folder: Path) -> None:
    """Make the folder of an index, or take what is there. Raises `UserError` for one that holds something but no index."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "index.json"
    ours = manifest.exists() and manifest.read_bytes().startswith(b'{\n "sha256"')  # others write files of this name too
    if not ours and any(not path.name.startswith("index.json.") for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no index: choose another --index")


def remove_unnamed(folder: Path, about: dict[str, Any]) -> None:
    """Delete the index's files that index.json does not name: a kill came between their writing and its, or they are old."""
    named = {f"{shard['name']}.{suffix}" for shard in about["shards"] for suffix in ("npy", "json")}
    named |= {f"{kind}.faiss" for kind in about["approximate"] or {}}
    for path in folder.iterdir():
        if OWN.fullmatch(path.name) and path.name not in named:
            path.unlink()
