"""Pictures in tar files, `--data tar:PATH`: as many as a disk holds, a few large files instead of millions of small ones.

The layout is WebDataset's (https://github.com/webdataset/webdataset): of a sample all files have one name up to the first
dot, 0042.jpg and 0042.cls, the number of its class as text; other files of that name, 0042.json or 0042.seg.png, are let
be. PATH/classes.txt names the classes, one a line; the shards are PATH/train/*.tar, val and test, or PATH/*.tar. To make
them from a folder of pictures:

    python -m dl.mytorch.data.tar pictures shards
"""

import argparse
import io
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple, Sequence

import torch
from torch.utils.data import Dataset

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data import folder
from dl.mytorch.data.augment import Augment
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.files import atomic_write


class Place(NamedTuple):
    """Where the picture of a sample lies in its shard, in bytes, and its class."""

    start: int
    size: int
    label: int


def read_index(shard: Path, classes: int) -> list[Place]:
    """Where the pictures of a shard are, in the order of the file: only heads and labels are read.

    Raises `UserError` for a damaged file, for a picture without a class, a class without a picture, and a sample of two.
    """
    pictures: dict[str, list[tuple[int, int]]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                suffix = member.name.rpartition("/")[2].partition(".")[2]  # folders may have dots in their names
                name = member.name.removesuffix(f".{suffix}")
                if f".{suffix.lower()}" in folder.SUFFIXES:
                    pictures.setdefault(name, []).append((member.offset_data, member.size))
                elif suffix == "cls":
                    labels[name] = int(tar.extractfile(member).read())
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UserError(f"{shard} is damaged or no plain tar file ({error})") from None
    if wrong := [name for name in pictures if not 0 <= labels.get(name, -1) < classes]:
        raise UserError(f"{shard}: {wrong[0]} has the class {labels.get(wrong[0], 'none')}; classes.txt names {classes}")
    if without := labels.keys() - pictures.keys():
        raise UserError(f"{shard}: {min(without)} has a class and no picture ({' '.join(sorted(folder.SUFFIXES))})")
    if several := [name for name, places in pictures.items() if len(places) > 1]:
        way_out = f"give those that are not meant other names, as {several[0]}.seg.png"
        raise UserError(f"{shard}: {several[0]} has {len(pictures[several[0]])} pictures: {way_out}")
    return [Place(*place, labels[name]) for name, (place,) in pictures.items()]


class Tarred(Dataset):
    """Pictures as squares of bytes, by their place: {"images" (3, `size`, `size`), "labels"}. Any order, any processes."""

    def __init__(self, shards: Sequence[Path], size: int, classes: int) -> None:
        self.shards, self.size = list(shards), size
        indices = [read_index(shard, classes) for shard in self.shards]
        rows = [(number, *place) for number, index in enumerate(indices) for place in index]
        self.places = torch.tensor(rows, dtype=torch.int64).view(-1, 4)  # (N, 4): shard, start, size, label

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Batch:
        number, start, size, label = self.places[i].tolist()
        shard = self.shards[number]
        with open(shard, "rb") as file:
            file.seek(start)
            content = file.read(size)
        image = folder.read_image(f"{shard}, bytes {start} to {start + size},", io.BytesIO(content))
        return {"images": folder.centre_square(image, self.size), "labels": torch.tensor(label)}


def class_names(root: Path) -> tuple[str, ...]:
    """The lines of classes.txt. Raises `UserError` unless there are two."""
    path = root / "classes.txt"
    names = tuple(path.read_text().splitlines()) if path.is_file() else ()
    if len(names) < 2:
        raise UserError(f"--data tar:{root}: {path} has to name the classes, one a line, two at least")
    return names


def tar_splits(config: TrainConfig, root: Path, size: int, augment: Augment | None = None) -> Splits:
    """The shards in `root`/train, val and test. A part that is missing gets a tenth of those in train, or in `root` itself.

    Batches as of `folder.folder_splits`. A sample is read when its batch comes, wherever in its file it lies, so that
    shuffling is over all shards, and a run goes on from any batch. Raises `UserError` where there is nothing to read.
    """
    classes = len(class_names(root))
    found = {part: sorted((root / part).glob("*.tar")) for part in ("train", "val", "test")}
    sets: dict[str, Dataset] = {part: Tarred(shards, size, classes) for part, shards in found.items() if shards}
    train = sets.get("train") or Tarred(sorted(root.glob("*.tar")), size, classes)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed)).tolist()
    for part in ("val", "test"):
        if part not in sets:
            held, order = order[: len(train) // 10], order[len(train) // 10 :]
            sets[part] = torch.utils.data.Subset(train, held)
    sets["train"] = torch.utils.data.Subset(train, sorted(order))
    if empty := [part for part, samples in sets.items() if len(samples) == 0]:
        raise UserError(f"--data tar:{root}: there are too few samples in *.tar, none are left for {' and '.join(empty)}")
    return folder.picture_splits(config, sets, augment)


def write_shards(root: Path, out: Path, samples: int = 1000) -> None:
    """A folder of pictures, as `folder.folder_splits` takes it, as shards of so many `samples`, in an order drawn once.

    Raises `UserError` for a folder `out` that is not empty: older shards would be read as well, by the new classes.txt.
    """
    names = folder.class_names(root)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder for the shards, or empty this one first")
    parts = {part: path for part in ("train", "val", "test") if (path := folder.part_of(root, part))} or {"": root}
    for part, source in parts.items():
        (out / part).mkdir(parents=True, exist_ok=True)
        pictures = folder.list_pictures(source, names)
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).tolist()
        for number, start in enumerate(range(0, len(order), samples)):
            with atomic_write(out / part / f"{number:06d}.tar") as file, tarfile.open(fileobj=file, mode="w") as tar:
                for i in order[start : start + samples]:
                    _add(tar, f"{i:08d}{pictures[i].path.suffix.lower()}", pictures[i].path.read_bytes())
                    _add(tar, f"{i:08d}.cls", str(pictures[i].label).encode())
    with atomic_write(out / "classes.txt") as file:
        file.write("".join(f"{name}\n" for name in names).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main(argv: Sequence[str] | None = None) -> int:
    prog = "python -m dl.mytorch.data.tar"
    parser = argparse.ArgumentParser(description="Write a folder of pictures as tar files for --data tar:SHARDS.", prog=prog)
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="folder of pictures as --data folder:PICTURES takes it")
    parser.add_argument("shards", type=Path, metavar="SHARDS", help="folder to write to, new or empty")
    options = parser.parse_args(argv)
    try:
        write_shards(options.pictures, options.shards)
    except (OSError, UserError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
