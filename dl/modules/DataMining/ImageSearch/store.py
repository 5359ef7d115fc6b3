"""The files of an index: written whole, named by index.json with their checksums, never trusted when read."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from dl.mytorch.checkpoint import atomic_write, write_json
from dl.mytorch.config import UserError


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


def remove_unnamed(folder: Path, about: dict[str, Any]) -> None:
    """Delete the shards that a kill left between their writing and that of index.json."""
    named = {shard["name"] for shard in about["shards"]}
    for path in folder.glob("[0-9]*"):
        if path.name.split(".")[0] not in named or path.suffix == ".tmp":
            path.unlink()
