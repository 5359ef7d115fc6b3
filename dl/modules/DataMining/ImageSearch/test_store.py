"""The files of an index: what is written is read again, and everything else is refused in one line that names the file."""

import copy
import io
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from dl.modules.DataMining.ImageSearch import index, store
from dl.modules.DataMining.ImageSearch.images import Images
from dl.modules.DataMining.ImageSearch.index import Index, calibrate, update
from dl.mytorch.config import UserError
from dl.mytorch.files import write_json

NETWORK = {"backbone": "none", "weights": "", "preset": "", "layer": "", "size": 3, "sha256": ""}


def images(numbers: Sequence[int]) -> Images:
    """Images without files: of one pixel each, with its number."""
    names, labels = [f"{i:03d}" for i in numbers], ["even" if i % 2 == 0 else "odd" for i in numbers]
    return Images("images", names, labels, lambda i: "stamp", lambda i: torch.full((3, 1, 1), numbers[i]))


def embed(read: Sequence[Tensor]) -> Tensor:
    return torch.stack([image[:, 0, 0] * torch.tensor([1.0, 0.5, 0.25]) + 1 for image in read])


def make(folder: Path, numbers: Sequence[int] = range(25)) -> Path:
    update(folder, images(numbers), embed, NETWORK)
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 25 images in three shards, in a folder that is made with those above it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "SHARD", 10)
        folder = make(tmp_path_factory.mktemp("made") / "new" / "folder" / "index")
        calibrate(folder)
    return folder


@pytest.fixture
def made(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.setattr(index, "SHARD", 10)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # which takes most of the time
    return Path(shutil.copytree(original, tmp_path / "index"))


def values(folder: Path) -> Any:
    found = Index(folder)
    return found.about, found.names, found.labels, torch.cat(found.vectors).tolist()


@pytest.mark.parametrize("flips", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_a_flipped_bit_is_refused_by_name_or_changes_no_value(made: Path, flips: int) -> None:
    """In a file drawn by its size, so that vectors, rows and index.json all get their share."""
    generator, expected = random.Random(flips), values(made)
    files = sorted(made.iterdir())
    for turn in range(flips):
        path = files[turn % len(files)]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        try:
            assert values(made) == expected
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error)
        path.write_bytes(content)
    assert values(made) == expected


@pytest.mark.parametrize("name", ["000001.npy", "000001.json", "index.json"])
def test_updating_refuses_a_changed_file_too_and_fresh_makes_it_anew(made: Path, name: str) -> None:
    expected = values(made)
    content = bytearray((made / name).read_bytes())
    content[-20] ^= 1
    (made / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} was changed since it was written, or is damaged.*--fresh"):
        make(made)
    update(made, images(range(25)), embed, NETWORK, fresh=True)
    calibrate(made)
    assert values(made) == expected


def _nested(_: Any) -> Any:
    value: Any = 0
    for _ in range(500):
        value = [value]
    return value


WRONG = [[], "x", 7, None, True, {}, 10**400, _nested(0)]


def fields() -> list[tuple[str, ...]]:
    """The places of all that index.json states."""
    network = [("network", name) for name in store.MANIFEST["network"]]
    shards = [("shards", "0", name) for name in ("name", "npy", "json")]
    decision = [("verdict", name) for name in ("distance", "pictures", "how")]
    return [*((name,) for name in store.MANIFEST), *network, *shards, *decision]


@pytest.mark.parametrize("field", fields(), ids=".".join)
def test_an_index_with_a_field_missing_or_of_another_type_is_refused(made: Path, field: tuple[str, ...]) -> None:
    """By index.json with a right checksum, as somebody else can write it."""
    about = store.read_manifest(made)
    kind = type(_at(about, field))
    every = WRONG if field in (("seed",), ("network", "size"), ("verdict", "distance")) else WRONG[:3]  # the same code
    for value in [_missing, *(value for value in every if type(value) is not kind or value == 10**400)]:
        changed = copy.deepcopy(about)
        place = _at(changed, field[:-1])
        if value is _missing:
            del place[field[-1]]
        else:
            place[field[-1]] = value
        if field == ("verdict",) and value is None or (kind is float and value == 7):
            continue  # which is right
        store.write_manifest(made, changed)
        with pytest.raises(UserError, match="index.json") as caught:
            Index(made)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    with pytest.raises(UserError, match="index.json"):
        make(made)


_missing = object()


def _at(value: Any, field: tuple[str, ...]) -> Any:
    for name in field:
        value = value[int(name) if isinstance(value, list) else name]
    return value


@pytest.mark.parametrize("name", ["../000000", "/etc/passwd", "", "00000", "0000000", "000000\n", "٠٠٠٠٠٠"])
def test_a_shard_is_a_file_of_the_folder(made: Path, name: str) -> None:
    about = store.read_manifest(made)
    about["shards"][0]["name"] = name
    store.write_manifest(made, about)
    with pytest.raises(UserError, match="index.json: shards have numbers of six digits as names"):
        Index(made)


def saved(array: Any, save: Callable[..., Any] = np.save) -> bytes:
    file = io.BytesIO()
    save(file, array)
    return file.getvalue()


VECTORS = {
    "of other numbers": saved(np.zeros((10, 3))),
    "too few": saved(np.zeros((9, 3), np.float32)),
    "of another length": saved(np.zeros((10, 4), np.float32)),
    "of objects": saved(np.array([[print] * 3] * 10, object)),
    "cut off": saved(np.zeros((10, 3), np.float32))[:-50],
    "several arrays": saved(np.zeros((10, 3), np.float32), np.savez),
    "no array": b"vectors",
    "empty": b"",
    "a huge header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "a header that is no dict": b"\x93NUMPY\x01\x00\x06\x00[[[[[[",
    "not finite": saved(np.full((10, 3), np.nan, np.float32)),
}
ROWS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no labels": lambda rows: {name: value for name, value in rows.items() if name != "labels"},
    "too few labels": lambda rows: {**rows, "labels": rows["labels"][1:]},
    "numbers as names": lambda rows: {**rows, "names": list(range(10))},
    "a list": lambda rows: [rows],
    "causes that are none": lambda rows: {**rows, "skipped": {"a": {"stamp": 1, "cause": ""}}},
    "deep": _nested,
}


@pytest.mark.parametrize("kind", [*VECTORS, *ROWS])
def test_a_shard_with_a_right_checksum_and_other_content_is_refused(made: Path, kind: str) -> None:
    suffix = "npy" if kind in VECTORS else "json"
    path = made / f"000000.{suffix}"
    content = VECTORS[kind] if kind in VECTORS else json.dumps(ROWS[kind](json.loads(path.read_bytes()))).encode()
    path.write_bytes(content)
    about = store.read_manifest(made)
    about["shards"][0][suffix] = store.checksum(path)
    store.write_manifest(made, about)
    with pytest.raises(UserError, match="000000|first those of 000") as caught:
        Index(made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['{"sha256": "", "index": ' + "[" * 100_000, '{"sha256": NaN}', "[1e999]", "\xff", "", '"x"'])
def test_an_index_json_that_is_no_json_is_refused(made: Path, text: str) -> None:
    (made / "index.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match="index.json.*--fresh rebuilds the index"):
        Index(made)


def _pipe(path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(path)


def _link(path: Path, target: Path) -> None:
    try:
        path.symlink_to(target)
    except OSError:  # of Windows
        pytest.skip("this user may not make links")


NO_FILES = {"a folder": Path.mkdir, "a pipe": _pipe, "a link to itself": lambda path: _link(path, path)}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["000001.npy", "000001.json", "index.json"])
def test_what_is_no_file_is_refused_without_waiting(made: Path, name: str, kind: str) -> None:
    (made / name).unlink()
    NO_FILES[kind](made / name)
    for use in (lambda: Index(made), lambda: make(made)):
        with pytest.raises(UserError, match=f"{name}|holds no index"):
            use()


def test_a_link_to_a_file_is_one(made: Path, tmp_path: Path) -> None:
    expected = values(made)
    for path in list(made.iterdir()):
        shutil.move(path, tmp_path / path.name)
        _link(path, tmp_path / path.name)
    assert values(made) == expected


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"mine")
    with pytest.raises(UserError, match="is a file, not a folder"):
        make(tmp_path / "index")
    with pytest.raises(UserError, match="holds no index"):
        Index(tmp_path / "index")


def test_files_that_are_mapped_need_neither_be_replaced_nor_deleted(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows while the page has the index open; the next command deletes what is left."""
    replace, unlink = os.replace, Path.unlink

    def refuse_replace(source: Any, target: Any) -> None:
        if Path(target).exists() and Path(target).name != "index.json":
            raise PermissionError(13, "used by another process", str(target))
        replace(source, target)

    def refuse_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".npy":
            raise PermissionError(13, "used by another process", str(path))
        unlink(path, missing_ok)

    opened = Index(made)
    before = torch.cat(opened.vectors).clone()
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse_replace)
        patch.setattr(Path, "unlink", refuse_unlink)
        make(made, range(20))  # the last shard goes
        make(made, [*range(1, 20), *range(30, 40)])  # the first changes, and a new one comes
        assert torch.equal(torch.cat(opened.vectors), before)
        assert sorted(Index(made).names) == [f"{i:03d}" for i in [*range(1, 20), *range(30, 40)]]
        assert len(list(made.glob("*.npy"))) > len(store.read_manifest(made)["shards"])
    make(made, [*range(1, 20), *range(30, 40)])
    assert len(list(made.glob("*.npy"))) == len(store.read_manifest(made)["shards"])


def test_images_whose_features_are_not_finite_are_left_out(tmp_path: Path) -> None:
    def spoilt(read: Sequence[Tensor]) -> Tensor:
        features = embed(read)
        features[3, 1], features[5, 0] = torch.nan, torch.inf
        return features

    problems = update(tmp_path / "index", images(range(25)), spoilt, NETWORK)
    assert problems == ["003: its features are not finite", "005: its features are not finite"]
    found = Index(tmp_path / "index")
    assert found.names == [f"{i:03d}" for i in range(25) if i not in (3, 5)]
    assert torch.equal(torch.cat(found.vectors), embed([torch.full((3, 1, 1), int(name)) for name in found.names]))


def test_an_index_of_images_that_are_all_the_same_knows_no_image(tmp_path: Path) -> None:
    same = Images("same", [f"{i:03d}" for i in range(25)], [""] * 25, lambda i: "", lambda i: torch.full((3, 1, 1), 9))
    update(tmp_path / "index", same, embed, NETWORK)
    calibrate(tmp_path / "index")
    assert Index(tmp_path / "index").about["verdict"] is None


def test_a_manifest_is_strict_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json({"distance": float("inf")}, tmp_path / "index.json")
