"""Files of data sets: where they are looked for, what is refused, what a download leaves, how a set is split."""

import gzip
import hashlib
import io
import urllib.request
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable

import pytest
import torch
from torch import Tensor

from dl.mytorch import torchvision_compat
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import Batch, Splits, sources
from dl.mytorch.data.augment import normalize
from dl.mytorch.data.sources import Source, read_checked

CONTENT = b"as it was published, " * 9
WANTED = {"images": b"many images", "labels": b"their labels"}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- one file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "file.gz"])
@pytest.mark.parametrize("checksum", [md5, sha256])
def test_a_published_file_is_read_plain_or_gzipped(name: str, checksum: Callable[[bytes], str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(CONTENT) if name.endswith(".gz") else CONTENT)
    assert read_checked(path, checksum(CONTENT)) == CONTENT


@pytest.mark.parametrize("name", ["file", "file.gz"])
@pytest.mark.parametrize("checksum", [md5, sha256])
@pytest.mark.parametrize(
    "damage",
    [b"", CONTENT[:2], CONTENT[:-1], CONTENT + b"\0", CONTENT[:-1] + b"!", b"<!DOCTYPE html><html>Not Found</html>"],
    ids=["empty", "two bytes", "without its last byte", "one byte more", "one altered byte", "a web page"],
)
def test_a_damaged_file_is_refused_by_name(damage: bytes, name: str, checksum: Callable[[bytes], str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(damage) if name.endswith(".gz") else damage)
    with pytest.raises(UserError, match=f"{path} is not the published file") as refused:
        read_checked(path, checksum(CONTENT))
    assert "\n" not in str(refused.value)


def test_a_gzip_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    whole = gzip.compress(CONTENT)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=str(path)):
            read_checked(path, md5(CONTENT))


def test_a_gzip_file_with_one_altered_byte_gives_the_published_content_or_an_error(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    whole = gzip.compress(CONTENT)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert read_checked(path, md5(CONTENT)) == CONTENT  # the time stamp, say
        except UserError as error:
            assert str(path) in str(error)


def test_no_more_is_unpacked_than_a_published_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes(10**6)))
    monkeypatch.setattr(sources, "LARGEST", 1000)
    assert len(sources.read_bytes(path, sources.LARGEST)) == 1000
    with pytest.raises(UserError, match="images.gz is not the published file"):
        read_checked(path, md5(bytes(10**6)))


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.gz").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, cause in (("folder.gz", "is a folder, not a file"), ("loop", "cannot be read"), ("none", "does not exist")):
        with pytest.raises(UserError, match=f"{name} {cause}"):
            read_checked(tmp_path / name, md5(CONTENT))


# ---- all files of a set --------------------------------------------------------------------------------------------


def write(folder: Path, contents: dict[str, bytes], gzipped: bool = False) -> None:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / (name + ".gz" if gzipped else name)).write_bytes(gzip.compress(content) if gzipped else content)


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """torchvision whose download is `downloads.act(folder)`; counts in `downloads.tried`. data/ is tmp_path/data."""

    def refuse(folder: Path) -> None:
        raise RuntimeError("Error downloading images.gz:\nTried http://example/\nno network")

    state = SimpleNamespace(tried=0, act=refuse)
    monkeypatch.setattr(torchvision_compat, "import_torchvision", lambda: SimpleNamespace(datasets=state))
    monkeypatch.setattr(sources, "DATA", tmp_path / "data")
    return state


@pytest.fixture
def source(tmp_path: Path) -> Source:
    def fetch(datasets: Any, folder: str) -> None:
        datasets.tried += 1
        datasets.act(Path(folder))

    places = (tmp_path / "data" / "Set" / "raw", tmp_path / "system")
    return Source(places, {name: md5(content) for name, content in WANTED.items()}, "ask a friend", fetch)


def test_an_archive_that_was_unpacked_in_its_place_is_found(tmp_path: Path, source: Source, downloads: SimpleNamespace) -> None:
    write(source.places[0] / "published-1.0", WANTED)
    assert sources.read("set", source) == WANTED and downloads.tried == 0


@pytest.mark.parametrize("gzipped", [False, True])
def test_data_comes_before_the_system_s_copy_and_both_before_a_download(
    gzipped: bool, tmp_path: Path, source: Source, downloads: SimpleNamespace
) -> None:
    write(tmp_path / "system", WANTED, gzipped)
    assert sources.read("set", source) == WANTED
    write(source.places[0], {"images": b"others", "labels": b"others"}, gzipped)
    with pytest.raises(UserError, match="data/Set/raw"):  # it is looked at first, and is not what was published
        sources.read("set", source)
    others = source._replace(files=dict.fromkeys(WANTED, md5(b"others")))
    assert sources.read("set", others) == {"images": b"others", "labels": b"others"}
    assert downloads.tried == 0


def test_an_incomplete_folder_is_passed_over(tmp_path: Path, source: Source, downloads: SimpleNamespace) -> None:
    write(source.places[0], {"images": b"others"})
    write(tmp_path / "system", WANTED)
    assert sources.find(source) == tmp_path / "system"
    assert sources.read("set", source) == WANTED and downloads.tried == 0


def test_what_is_absent_is_downloaded_once_beside_what_is_there(
    tmp_path: Path, source: Source, downloads: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(folder: Path) -> None:
        write(folder / "Set" / "raw", WANTED)
        (folder / "archive.tar.gz").write_bytes(b"what it was unpacked from")

    downloads.act = act
    write(tmp_path / "data" / "Set", {"own": b"of the user"})
    for _ in range(2):
        assert sources.read("set", source) == WANTED
    assert downloads.tried == 1
    assert capsys.readouterr().out.count("downloading") == 1
    left = {path.relative_to(tmp_path / "data").as_posix() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    assert left == {"Set/own", "Set/raw/images", "Set/raw/labels"}


def test_a_failing_download_leaves_nothing_and_says_everything_that_helps(
    tmp_path: Path, source: Source, downloads: SimpleNamespace
) -> None:
    def fail_half_way(folder: Path) -> None:
        write(folder / "Set" / "raw", WANTED)
        raise OSError("connection\nreset")

    for act in (downloads.act, fail_half_way):
        downloads.act = act
        with pytest.raises(UserError) as refused:
            sources.read("set", source)
        message = str(refused.value)
        assert list((tmp_path / "data").iterdir()) == []
        assert "\n" not in message
        for helpful in (str(source.places[0]), str(tmp_path / "system"), "download failed", "ask a friend"):
            assert helpful in message
    assert "connection reset" in message


def test_a_stopped_download_leaves_nothing(tmp_path: Path, source: Source, downloads: SimpleNamespace) -> None:
    def stop(folder: Path) -> None:
        write(folder / "Set" / "raw", WANTED)
        raise KeyboardInterrupt

    downloads.act = stop
    with pytest.raises(KeyboardInterrupt):
        sources.read("set", source)
    assert list((tmp_path / "data").iterdir()) == []


def test_a_set_that_cannot_be_downloaded_is_not_looked_for_on_the_network(source: Source, downloads: SimpleNamespace) -> None:
    with pytest.raises(UserError, match="ask a friend"):
        sources.read("set", source._replace(fetch=None))
    assert downloads.tried == 0


# ---- splits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["top/../../out.txt", "top//etc/out.txt", "top/C:out.txt", "other/out.txt", None])
def test_an_archive_with_other_names_of_files_or_none_at_all_is_an_error(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO(b"a page")
    if name:
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name, "content")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(packed.getvalue()))
    with pytest.raises(OSError, match="archive"):
        sources.unpack("https://a.zip", "top/", tmp_path / "here")
    assert not list(tmp_path.rglob("*.txt"))


def test_a_tenth_is_held_out_for_each_part_that_is_missing() -> None:
    parts = sources.held_out({"train": list(range(30)), "test": [30]}, seed=0)
    assert len(parts["train"]) == 27 and len(parts["val"]) == 3 and parts["test"] == [30]
    assert sorted(parts["train"] + parts["val"]) == list(range(30)) and parts["val"] != list(range(3))
    assert sources.held_out({"train": [1], "val": [2], "test": [3]}, 0) == {"train": [1], "val": [2], "test": [3]}


def load(name: str) -> tuple[Batch, Batch]:
    """90 + 8 images of one pixel; image i is filled with i."""
    images = (torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1) for count in (90, 8))
    train, test = ({"images": each, "labels": each.flatten().long() % 10} for each in images)
    return train, test


def split(seed: int = 0, augment: Any = None, data: str = "set") -> Splits:
    config = TrainConfig(out="unused", data=data, seed=seed, batch_size=16)
    return sources.splits(config, ("set", "set-sample"), load, normalize([0.2860], [0.3530]), augment)


def numbers(splits: Splits) -> list[list[int]]:
    """Which images each split holds."""
    return [sorted(loader.dataset["images"].flatten().tolist()) for loader in splits]


def test_a_tenth_of_the_training_set_validates_and_is_not_trained_on() -> None:
    train, val, test = numbers(split())
    assert len(val) == 9 and len(train) == 81
    assert sorted(train + val) == list(range(90))
    assert test == list(range(8))


def test_the_seed_alone_draws_the_validation_set() -> None:
    first = numbers(split(seed=3))
    torch.rand(5)
    assert first == numbers(split(seed=3))
    assert first[1] != numbers(split(seed=4))[1]


def test_batches_are_standardised_and_only_training_is_augmented() -> None:
    def black(batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        assert batch["images"].dtype == torch.uint8
        return batch | {"images": torch.zeros_like(batch["images"])}

    splits = split(augment=black)
    assert splits.train.shuffle and not splits.val.shuffle and not splits.test.shuffle
    test = next(splits.test.batches())
    assert test["labels"].tolist() == list(range(8))
    torch.testing.assert_close(test["images"].flatten(), (torch.arange(8) / 255 - 0.2860) / 0.3530, atol=1e-5, rtol=0)
    torch.testing.assert_close(next(splits.train.batches())["images"].unique(), torch.tensor([-0.2860 / 0.3530]))
    assert len(next(splits.val.batches())["images"].unique()) == 9


@pytest.mark.parametrize("data", ["other", "set-", "-sample", "", "set-sample-sample"])
def test_another_data_set_s_name_is_refused(data: str) -> None:
    with pytest.raises(UserError, match="loads set or set-sample"):
        split(data=data)
