"""Tar shards: what WebDataset's tools write is read; every sample once an epoch, whatever the ranks; damage is named."""

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, ImageConfig, image_set, image_splits, loader
from dl.mytorch.data.images import tar
from dl.mytorch.data.images.folder import ImageFile
from dl.mytorch.data.images.tar import Tarred, _write_shard, main, read_index, write_shards
from dl.mytorch.data.sources import DATA
from dl.mytorch.data.split import record_split
from dl.mytorch.files import read_json
from dl.mytorch.testing.processes import finish, start, wait_for_change


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(shades: range) -> dict[str, bytes]:
    """As WebDataset orders them, with a file that we do not read."""
    files = {}
    for shade in shades:
        files |= {f"a/{shade:04d}.cls": str(shade % 2).encode(), f"a/{shade:04d}.json": b"{}", f"a/{shade:04d}.png": png(shade)}
    return files


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """13 samples in three shards of training, 5 to validate, 3 to test: each tells its number by its shade."""
    for name, shades in {"train/0": range(6), "train/1": range(6, 11), "train/2": range(11, 13)}.items():
        write(tmp_path / f"{name}.tar", samples(shades))
    write(tmp_path / "val" / "0.tar", samples(range(20, 25)))
    write(tmp_path / "test" / "0.tar", samples(range(30, 33)))
    (tmp_path / "classes.txt").write_text("even\nodd\n", encoding="utf-8")
    return tmp_path


def config(root: Path, **flags: object) -> ImageConfig:
    return ImageConfig("x", f"tar:{root}", image_size=4, batch_size=4, **flags)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_together_see_every_sample_once_an_epoch(root: Path, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    monkeypatch.setattr(loader, "data_world_size", lambda: world)
    splits = image_splits(config(root))
    for split, shades in zip(splits, (range(13), range(20, 25), range(30, 33)), strict=True):
        seen = []
        for rank in range(world):
            monkeypatch.setattr(loader, "data_rank", lambda: rank)
            for batch in split.batches(epoch=1):
                assert batch["images"].shape[1:] == (3, 4, 4)
                shade = (batch["images"][:, 0, 0, 0] * 0.229 + 0.485) * 255
                assert torch.equal(shade.round().long() % 2, batch["labels"])
                seen += shade.round().long().tolist()
        assert sorted(seen) == list(shades)


def shades(batch: Batch) -> list[int]:
    """The numbers of the samples of a batch."""
    return ((batch["images"][:, 0, 0, 0] * 0.229 + 0.485) * 255).round().long().tolist()


@pytest.fixture
def machines(tmp_path: Path) -> list[Path]:
    """7 unequal shards for training, 3 and 4 for the rest, on 3 machines: each has its own tar files, and all indices."""
    lengths = {"train": (9, 1, 4, 2, 7, 1, 5), "val": (2, 1, 3), "test": (1, 1, 2, 1)}
    found, shade = [tmp_path / str(rank) for rank in range(3)], 0
    for part, counts in lengths.items():
        for number, count in enumerate(counts):
            new = range(shade, shade + count)
            places = {i: fill(tmp_path / "images", range(i, i + 1)) / ("even", "odd")[i % 2] / f"{i}.png" for i in new}
            images = {i: ImageFile(path, i % 2) for i, path in places.items()}
            for rank, machine in enumerate(found):
                (machine / part).mkdir(parents=True, exist_ok=True)
                _write_shard(machine / part / f"{number}.tar", images)
                if number % 3 != rank:
                    (machine / part / f"{number}.tar").unlink()
            shade += count
    for machine in found:
        (machine / "classes.txt").write_text("even\nodd\n", encoding="utf-8")
    return found


def on_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int = 3) -> None:
    """From now on this process is one of several, as far as data is concerned."""
    for module in (loader, tar):
        monkeypatch.setattr(module, "data_rank", lambda: rank)
        monkeypatch.setattr(module, "data_world_size", lambda: world)


def test_ranks_with_shards_of_their_own_read_every_sample_once_from_any_start(
    machines: list[Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []
    for rank, machine in enumerate(machines):
        on_rank(monkeypatch, rank)
        splits = image_splits(config(machine, own_shards=True))
        parts.append([[list(map(shades, split.batches(e, t))) for t in range(len(split))] for e in (0, 1) for split in splits])
    expected = [range(29), range(29, 35), range(35, 40)] * 2  # two epochs of three splits
    orders = []
    for number, starts in enumerate(zip(*parts, strict=True)):
        orders.append([sorted(sum(of_ranks, [])) for of_ranks in zip(*(own[0] for own in starts), strict=True)])
        sizes = [len(batch) for batch in orders[-1]]
        assert set(sizes[:-1]) <= {4} and sorted(sum(orders[-1], [])) == list(expected[number])
        for own in starts:  # what a rank reads from batch t on is the rest of what it reads from the beginning
            assert all(from_t == own[0][t:] for t, from_t in enumerate(own))
    assert orders[0] != orders[3] and orders[1] == orders[4]  # training is shuffled again
    on_rank(monkeypatch, 0, 1)
    for machine in machines[1:]:  # one process, to which all shards came, reads the same batches
        for path in machine.rglob("*.tar"):
            path.rename(machines[0] / path.relative_to(machine))
    alone = image_splits(config(machines[0]))
    assert [[sorted(shades(b)) for b in split.batches(epoch)] for epoch in (0, 1) for split in alone] == orders


def test_what_own_shards_need_is_said_in_one_line(machines: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    on_rank(monkeypatch, 1)
    with pytest.raises(UserError, match=r"rank 1 of 3 reads .*1.tar, which is not on this machine"):
        image_splits(config(machines[0], own_shards=True))
    on_rank(monkeypatch, 0, 4)
    with pytest.raises(UserError, match="rank 3 of 4 has no samples for val: make more, smaller shards"):
        image_splits(config(machines[0], own_shards=True))
    on_rank(monkeypatch, 0)
    monkeypatch.setattr(tar, "gather_objects", lambda split: [split, {**split, "val": []}])
    with pytest.raises(UserError, match="the machines have not the same shards: each needs the indices"):
        image_splits(config(machines[0], own_shards=True))
    with pytest.raises(UserError, match="--own-shards has to be left out, as --data is not tar:PATH"):
        ImageConfig("x", "fashion_mnist-sample", own_shards=True)
    with pytest.raises(UserError, match="1.tar is gone"):
        image_splits(config(machines[0]))


# A rank's folder is its machine; a process without ranks has all shards in "alone".
RECIPE = """
import os
import time
from dataclasses import dataclass

from torch import nn

from dl.mytorch import Trainer, launch, seed_everything
from dl.mytorch.data import ImageConfig, image_splits
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification


@dataclass(frozen=True)
class Config(ImageConfig):
    data: str = "tar:."
    image_size: int = 4


class Paused(Classification):
    def step(self, model, batch):
        time.sleep(0.05)
        return super().step(model, batch)


def main(config):
    seed_everything(config.seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    return Trainer(model, Paused(), sgd(config.lr), constant(), config).fit(image_splits(config))


if __name__ == "__main__":
    os.chdir(os.environ.get("RANK", "alone"))
    launch(main, Config)
"""


@pytest.mark.slow
def test_three_ranks_with_shards_of_their_own_train_as_one_process(
    machines: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = machines[0].parent
    monkeypatch.chdir(place)
    (place / "train.py").write_text(RECIPE, encoding="utf-8")
    for machine in machines:
        shutil.copytree(machine, place / "alone", dirs_exist_ok=True)
    runs = [place / "runs" / name for name in ("alone", "whole", "broken")]
    flags = [["--out", str(out), "--epochs", "3", "--batch-size", "4", "--save-every", "1", "--no-plots"] for out in runs]
    own = ["--own-shards", "--parallel", "ddp"]
    finish(start(place / "train.py", *flags[0]))
    finish(start(place / "train.py", *flags[1], *own, ranks=3))
    process = start(place / "train.py", *flags[2], *own, ranks=3)
    wait_for_change(runs[2] / "last.pt", 0, process)
    subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)  # the ranks; torchrun then gives up
    finish(process, 1)
    assert "resuming " in finish(start(place / "train.py", *flags[2], *own, ranks=3))
    testing.assert_same_runs(runs[1], runs[2])
    for one, three in zip(*(read_json(out / "history.json") for out in runs[:2]), strict=True):
        for split in one.keys() & {"train", "val", "test"}:
            assert three[split] == pytest.approx(one[split], abs=1e-6)


def test_an_epoch_goes_on_from_any_batch(root: Path) -> None:
    train = image_splits(config(root, hflip=True)).train
    whole = list(train.batches(epoch=2))
    assert len(whole) == 4
    for batch, expected in zip(train.batches(epoch=2, start=2), whole[2:], strict=True):
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_a_sample_is_what_has_one_name_up_to_the_first_dot(tmp_path: Path) -> None:
    files = {"7.PNG": png(7), "7.seg.png": png(9), "._7.png": b"of macOS", "7.cls": b"1", "7.old.cls": b"0"}
    shard = Tarred([write(tmp_path / "0.tar", {f"v1.0/{name}": content for name, content in files.items()})], 4, 2)
    assert len(shard) == 1 and shard[0]["images"].unique().tolist() == [7] and shard[0]["labels"] == 1


def test_names_of_classes_and_held_out_parts(root: Path) -> None:
    assert image_set(config(root)).classes == ("even", "odd")
    for path in (root / "train").iterdir():
        path.rename(root / path.name)
    for part in ("val", "test"):
        (root / part / "0.tar").unlink()
    train, val, test = image_splits(config(root))
    assert [len(split.dataset) for split in (train, val, test)] == [11, 1, 1]


def fill(root: Path, shades: range) -> Path:
    """An image of each shade, in the folder of its class."""
    for shade in shades:
        path = root / ("even", "odd")[shade % 2] / f"{shade}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(shade))
    return root


def test_folders_become_shards(tmp_path: Path) -> None:
    fill(tmp_path / "images" / "train", range(5))
    fill(tmp_path / "images" / "val", range(5, 8))
    write_shards(tmp_path / "images", tmp_path / "shards", samples=2)
    shards = sorted((tmp_path / "shards" / "train").glob("*.tar"))
    assert [len(read_index(shard, 2)) for shard in shards] == [2, 2, 1]
    data = Tarred(shards, 4, 2)
    pairs = [(int(sample["images"].float().mean()), int(sample["labels"])) for sample in data]
    assert sorted(pairs) == [(shade, shade % 2) for shade in range(5)]
    assert image_set(config(tmp_path / "shards")).classes == ("even", "odd")


def test_shards_are_not_written_among_older_ones(tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    write_shards(fill(tmp_path / "images", range(6)), shards, samples=2)
    before = {path: path.read_bytes() for path in shards.iterdir()}
    assert len(before) == 8  # three shards with their indices, the names of the classes, the checksums
    (tmp_path / "images" / "even").rename(tmp_path / "images" / "zero")
    with pytest.raises(UserError, match="shards is not empty: name a new folder"):
        write_shards(tmp_path / "images", shards, samples=6)
    assert {path: path.read_bytes() for path in shards.iterdir()} == before


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, shards = str(fill(tmp_path / "images", range(4))), str(tmp_path / "shards")
    assert main([images, shards]) == 0 and capsys.readouterr() == ("", "")
    (tmp_path / "empty").mkdir()
    for wrong, out in [(images, shards), (str(tmp_path / "empty"), shards), (images, f"{images}/odd/1.png")]:
        assert main([wrong, out]) == 1
        printed, said = capsys.readouterr()
        assert printed == "" and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.slow
def test_the_command_runs_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dl.mytorch.data.images.tar", str(tmp_path / "nowhere"), str(tmp_path / "shards")]
    done = subprocess.run(command, cwd=DATA.parent, capture_output=True, text=True, encoding="utf-8")
    said = f"error: --data folder:{tmp_path / 'nowhere'}: there is no such folder\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize("name", ["a\u2028x", "a\nx", "a\x85x", "a\x0cx"])
def test_names_of_classes_may_hold_what_ends_a_line(name: str, tmp_path: Path) -> None:
    if not name.isascii() and sys.getfilesystemencoding() != "utf-8":
        pytest.skip("file names are ASCII here")
    fill(tmp_path / "images", range(4))
    (tmp_path / "images" / "even").rename(tmp_path / "images" / name)
    write_shards(tmp_path / "images", tmp_path / "shards")
    assert image_set(config(tmp_path / "shards")).classes == (name, "odd")
    if name != "a\nx":
        (tmp_path / "shards" / "classes.json").unlink()
        (tmp_path / "shards" / "classes.txt").write_text(f"{name}\r\nodd\r\n", encoding="utf-8", newline="")
        assert image_set(config(tmp_path / "shards")).classes == (name, "odd")


def changed(content: bytes, how: str) -> bytes:
    """A shard of several samples, damaged without a trace for a reader that stops at the first header it cannot read."""
    header = content.index(b".cls", 2000) // 512 * 512  # one in the middle
    return {
        "a bit of a header": content[: header + 3] + bytes([content[header + 3] ^ 1]) + content[header + 4 :],
        "cut": content[:header],
        "cut at the end": content[: len(content.rstrip(b"\0")) // 512 * 512 + 512],
        "a hole at the end": content + bytes(tarfile.RECORDSIZE),
        "a hole": content[:header] + bytes(1024) + content[header + 1024 :],
    }[how]


@pytest.mark.parametrize("how", ["a bit of a header", "cut", "cut at the end", "a hole", "a hole at the end"])
def test_a_damaged_shard_is_no_shorter_set(how: str, tmp_path: Path) -> None:
    shard = write(tmp_path / "0.tar", samples(range(6)))
    assert len(read_index(shard, 2)) == 6
    shard.write_bytes(changed(shard.read_bytes(), how))
    with pytest.raises(UserError, match="0.tar is damaged or no plain tar file"):
        read_index(shard, 2)


def test_a_shard_with_an_index_is_what_was_written_or_refused(tmp_path: Path) -> None:
    write_shards(fill(tmp_path / "images", range(6)), tmp_path / "shards")
    shard = tmp_path / "shards" / "000000.tar"
    content = shard.read_bytes()
    data = Tarred([shard], 4, 2)
    expected = [example["images"] for example in data]
    for how in ("a bit of a header", "cut", "a hole"):
        shard.write_bytes(changed(content, how))
        if how == "cut":
            with pytest.raises(UserError, match="000000.tar was changed since its index was made"):
                read_index(shard, 2)
        else:  # headers are not read
            assert all(torch.equal(example["images"], image) for example, image in zip(Tarred([shard], 4, 2), expected))
    place = read_index(shard, 2)[3]
    shard.write_bytes(content[: place.start + 50] + bytes([content[place.start + 50] ^ 4]) + content[place.start + 51 :])
    with pytest.raises(UserError, match=r"000000.tar, bytes \d+ to \d+, was changed since it was written"):
        Tarred([shard], 4, 2)[3]
    shard.rename(tmp_path / "elsewhere.tar")
    with pytest.raises(UserError, match="000000.tar is gone; if that is meant, delete the entry"):
        image_splits(config(tmp_path / "shards"))
    (tmp_path / "elsewhere.tar").rename(shard)
    index = shard.with_suffix(".json")
    index.write_text(index.read_text(encoding="utf-8").replace("1", "0", 1), encoding="utf-8")
    with pytest.raises(UserError, match="000000.json was changed since it was written"):
        read_index(shard, 2)


def test_a_run_is_not_resumed_with_other_shards(root: Path) -> None:
    of_run = ImageConfig(str(root), f"tar:{root}", image_size=4)
    record_split(image_splits(of_run).split, root)
    image_splits(of_run)
    write(root / "train" / "3.tar", samples(range(40, 42)))
    with pytest.raises(UserError, match=r"\(1 new, train/3.tar: 2 samples, .* first\)"):
        image_splits(of_run)


def test_what_is_wrong_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="bytes .* is not an image"):
        Tarred([write(root / "bad.tar", {"a.png": b"nothing", "a.cls": b"0"})], 4, 2)[0]
    with pytest.raises(UserError, match="b has the class 2; there are names of 2"):
        read_index(write(root / "bad.tar", {"b.png": png(1), "b.cls": b"2"}), 2)
    with pytest.raises(UserError, match="b has the class none"):
        read_index(write(root / "bad.tar", {"b.png": png(1)}), 2)
    with pytest.raises(UserError, match="bad.tar: b has a class and no image .*png"):
        read_index(write(root / "bad.tar", {"b.gif": png(1), "b.cls": b"1"}), 2)
    with pytest.raises(UserError, match="bad.tar: b has 2 images: give .* as b.seg.png"):
        read_index(write(root / "bad.tar", {"b.jpg": png(1), "b.png": png(1), "b.cls": b"1"}), 2)
    with pytest.raises(UserError, match="bad.tar: b has more than one class"):
        read_index(write(root / "bad.tar", {"b.cls": b"1", "b.png": png(1), "./b.cls": b"1"} | {"b.cls": b"1" * 21}), 2)
    with tarfile.open(root / "bad.tar", "w") as tar:
        member = tarfile.TarInfo("b.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UserError, match="bad.tar: b.png is no plain file"):
        read_index(root / "bad.tar", 2)
    with pytest.raises(UserError, match="train is a folder, not a file"):
        read_index(root / "train", 2)
    (root / "bad.tar").write_bytes(b"no tar file at all" * 100)
    with pytest.raises(UserError, match="bad.tar is damaged or no plain tar file"):
        read_index(root / "bad.tar", 2)
    (root / "classes.txt").unlink()
    with pytest.raises(UserError, match="has to name the classes"):
        config(root)
