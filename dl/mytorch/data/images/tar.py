"""Images in tar files, `--data tar:PATH`: as many as a disk holds, a few large files instead of millions of small ones.

The layout is WebDataset's (https://github.com/webdataset/webdataset): of a sample all files have one name up to the first
dot, 0042.jpg and 0042.cls, the number of its class as text; other files of that name, 0042.json or 0042.seg.png, are let
be. PATH/classes.json is the list of the classes' names, or PATH/classes.txt has one a line; the shards are PATH/train/*.tar,
val and test, or PATH/*.tar. To make them from a folder of images:

    python -m dl.mytorch.data.images.tar images shards

Beside each shard 000000.tar that this writes lies its index, 000000.json: the size of the shard, and of each sample its
place and checksum, which is compared when the sample is read. Shards of other programs have none; they are read strictly.

With `--own-shards`, rank r of n reads shards r, r + n, ... of each part alone, in the order of their names. Its machine needs
no others, only their indices, classes.json and checksums.json.
"""

import hashlib
import io
import sys
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dl import print_error
from dl.mytorch.command_line import Parser
from dl.mytorch.config import TrainConfig, UserError, user_path
from dl.mytorch.data.augment import Transform
from dl.mytorch.data.images import folder
from dl.mytorch.data.images.imagefile import SUFFIXES, centre_square, read_image
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.data.text.textfiles import read_lines
from dl.mytorch.distributed import data_rank, data_world_size, gather_objects
from dl.mytorch.files import CHECKSUMS, atomic_write, read_json, regular_file, verify, write_recorded_json

UNKNOWN = -1  # checksum of a sample in a shard without an index


class Place(NamedTuple):
    """Where the image of a sample lies in its shard, in bytes, its class, and the CRC-32 of its bytes."""

    start: int
    size: int
    label: int
    crc: int = UNKNOWN


def read_index(shard: Path, classes: int) -> list[Place]:
    """Return where the images of a shard are, in the order of the file, by its index or else by its headers and labels.

    Raises `UserError` for a damaged file, for an image without a class, a class without an image, and a sample of two.
    """
    index = shard.with_suffix(".json")
    if not index.exists():
        return _scan(regular_file(shard), classes)
    verify(index)
    made = read_json(index, {"bytes": int, "samples": [[int]]}, limit=2**28)
    places = [Place(*sample) for sample in made["samples"] if len(sample) == len(Place._fields)]
    length = regular_file(shard).stat().st_size if shard.exists() else made["bytes"]  # it may be on another machine
    if length != made["bytes"] or len(places) < len(made["samples"]):
        raise UserError(f"{shard} was changed since its index was made; if the change is meant, delete {index}")
    if wrong := [p for p in places if not (0 <= p.start <= p.start + p.size <= length and 0 <= p.label < classes)]:
        raise UserError(f"{index} does not fit {shard} and {classes} classes: {wrong[0]}")
    return places


def _scan(shard: Path, classes: int) -> list[Place]:
    images: dict[str, list[tuple[int, int]]] = {}
    labels: dict[str, int] = {}
    try:
        with open(shard, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                suffix = member.name.rpartition("/")[2].partition(".")[2]  # folders may have dots in their names
                name = member.name.removesuffix(f".{suffix}")
                is_image = f".{suffix.lower()}" in SUFFIXES
                if (is_image or suffix == "cls") and (not member.isreg() or member.issparse() or member.size < 0):
                    raise UserError(f"{shard}: {member.name} is no plain file but a link, a folder or a sparse file")
                if is_image:
                    images.setdefault(name, []).append((member.offset_data, member.size))
                elif suffix == "cls":
                    if name in labels or member.size > 20:
                        raise UserError(f"{shard}: {name} has more than one class")
                    labels[name] = int(tar.extractfile(member).read())
            _check_end(file, tar.offset)
    except (tarfile.TarError, ValueError, EOFError, OverflowError, MemoryError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{shard} is damaged or no plain tar file ({error})") from None
    if wrong := [name for name in images if not 0 <= labels.get(name, -1) < classes]:
        raise UserError(f"{shard}: {wrong[0]} has the class {labels.get(wrong[0], 'none')}; there are names of {classes}")
    if without := labels.keys() - images.keys():
        raise UserError(f"{shard}: {min(without)} has a class and no image ({' '.join(sorted(SUFFIXES))})")
    if several := [name for name, places in images.items() if len(places) > 1]:
        way_out = f"give those that are not meant other names, as {several[0]}.seg.png"
        raise UserError(f"{shard}: {several[0]} has {len(images[several[0]])} images: {way_out}")
    return [Place(*place, labels[name]) for name, (place,) in images.items()]


def _check_end(file: BinaryIO, offset: int) -> None:
    """Raise `ReadError` unless an end follows: `tarfile` takes any damaged header, and any hole, for one.

    It is two blocks of zeros, and more up to the end of a record.
    """
    file.seek(offset)
    length = 0
    while block := file.read(2**20):
        length += len(block)
        if block.count(0) < len(block):
            raise tarfile.ReadError(f"after byte {offset} there is neither a valid header nor the end")
    if length < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end: it was cut off")
    if length >= 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE:
        raise tarfile.ReadError(f"it ends in {length} zeros, of which {tarfile.RECORDSIZE} make a record: a part is missing")


class Tarred(Dataset):
    """Images as squares of bytes, by their place: {"images" (3, `size`, `size`), "labels"}. Any order, any processes."""

    def __init__(self, shards: Sequence[Path], size: int, classes: int) -> None:
        self.shards, self.size = list(shards), size
        indices = [read_index(shard, classes) for shard in self.shards]
        rows = [(number, *place) for number, index in enumerate(indices) for place in index]
        self.places = torch.tensor(rows, dtype=torch.int64).view(-1, 5)  # (N, 5): shard, start, size, label, crc

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Batch:
        number, start, size, label, crc = self.places[i].tolist()
        shard = self.shards[number]
        with open(shard, "rb") as file:
            file.seek(start)
            content = file.read(size)
        place = f"{shard}, bytes {start} to {start + size},"
        if crc not in (UNKNOWN, zlib.crc32(content)):
            raise UserError(f"{place} was changed since it was written, or is damaged")
        image = read_image(place, io.BytesIO(content))
        return {"images": centre_square(image, self.size), "labels": torch.tensor(label)}


def class_names(root: Path) -> tuple[str, ...]:
    """Return the names in classes.json, or the lines of classes.txt. Raises `UserError` unless there are two, all different."""
    path, lines = root / "classes.json", root / "classes.txt"
    names: Sequence[str] = ()
    if path.exists():
        verify(path)
        names = read_json(path, [str])
    elif lines.exists():
        names = read_lines(regular_file(lines))
    if len(names) < 2 or len(set(names)) < len(names):
        raise UserError(f"--data tar:{root}: {path} or {lines.name} has to name the classes, two at least, each once")
    return tuple(names)


def tar_splits(
    config: TrainConfig,
    root: Path,
    size: int,
    augment: Transform | None = None,
    to_input: Transform = folder.IMAGENET,
    own_shards: bool = False,
) -> Splits:
    """The shards in `root`/train, val and test. A part that is missing gets a tenth of those in train, or in `root` itself.

    Batches as of `folder.folder_splits`. A sample is read when its batch comes, wherever in its file it lies, so that
    shuffling is over all shards, and a run resumes at any batch. Raises `UserError` where there is nothing to read, and
    when the shards are not those with which the run in `config.out` began.
    own_shards: each rank reads a part of the shards alone, see above. Batches are the same.
    """
    names = class_names(root)
    found = {part: _shards(root / part, own_shards) for part in ("train", "val", "test")}
    found["train"] = found["train"] or _shards(root, own_shards)
    read = {part: Tarred(shards, size, len(names)) for part, shards in found.items() if shards or part == "train"}
    sets: dict[str, Dataset] = {**read}
    train = read["train"]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed)).tolist()
    for part in ("val", "test"):
        if part not in sets:
            held, order = order[: len(train) // 10], order[len(train) // 10 :]
            sets[part] = torch.utils.data.Subset(train, held)
    sets["train"] = torch.utils.data.Subset(train, sorted(order))
    if empty := [part for part, samples in sets.items() if len(samples) == 0]:
        raise UserError(f"--data tar:{root}: there are too few samples in *.tar, none are left for {' and '.join(empty)}")
    split = {part: _described(read[part], root) if part in read else [] for part in ("train", "val", "test")}
    shards = {part: _numbers(samples) for part, samples in sets.items()} if own_shards else None
    if shards is not None:
        _check_own(read, shards, split)
    return folder.splits_of_files(config, sets, augment, to_input, names, split, shards)


def _numbers(samples: Dataset) -> Tensor:
    """Return the number of the shard that each sample is in."""
    chosen = samples.dataset.places[samples.indices] if isinstance(samples, torch.utils.data.Subset) else samples.places
    return chosen[:, 0]


def _check_own(read: dict[str, Tarred], shards: dict[str, Tensor], split: folder.Split) -> None:
    """Raise `UserError` unless all ranks found the same shards, and each has its own ones here, with samples of each part."""
    rank, world = data_rank(), data_world_size()
    if any(other != split for other in gather_objects(split)):
        raise UserError("--own-shards: the machines have not the same shards: each needs the indices (.json) of all of them")
    for part, numbers in shards.items():
        if missing := [r for r in range(world) if not (numbers % world == r).any()]:
            raise UserError(f"--own-shards: rank {missing[0]} of {world} has no samples for {part}: make more, smaller shards")
    for data in read.values():
        for shard in data.shards[rank::world]:
            if not shard.exists():
                raise UserError(f"--own-shards: rank {rank} of {world} reads {shard}, which is not on this machine")


def _shards(folder: Path, elsewhere: bool = False) -> list[Path]:
    """Return the shards in a folder, by name; with `elsewhere`, also those of which there is the index alone.

    Raises `UserError` when one is gone whose index was written there.
    """
    shards, sums = set(folder.glob("*.tar")), folder / CHECKSUMS
    written = {Path(name).stem for name in read_json(sums, {str: [str]})} - {"classes"} if sums.exists() else set()
    if elsewhere:
        shards |= {folder / f"{name}.tar" for name in written}
    if gone := sorted(written - {shard.stem for shard in shards}):
        raise UserError(f"{folder / gone[0]}.tar is gone; if that is meant, delete the entry of {gone[0]}.json in {sums}")
    return sorted(shards)


def _described(data: Tarred, root: Path) -> list[str]:
    """Return each shard of a part with a checksum of its index: the seed alone draws from these."""
    described = []
    for number, shard in enumerate(data.shards):
        rows: Tensor = data.places[data.places[:, 0] == number, 1:]
        digest = hashlib.sha256(rows.numpy().tobytes()).hexdigest()[:16]
        described.append(f"{shard.relative_to(root).as_posix()}: {len(rows)} samples, {digest}")
    return described


def write_shards(root: Path, out: Path, samples: int = 1000) -> None:
    """A folder of images, as `folder.folder_splits` takes it, as shards of so many `samples`, in an order drawn once.

    Raises `UserError` for a folder `out` that is not empty: older shards would be read as well, by the new names of classes.
    """
    names, root = folder.class_names(root), folder.set_folder(root)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder for the shards, or empty this one first")
    parts = {part: path for part in ("train", "val", "test") if (path := folder.part_of(root, part))} or {"": root}
    for part, source in parts.items():
        (out / part).mkdir(parents=True, exist_ok=True)
        images = folder.list_images(source, names)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
        for number, start in enumerate(range(0, len(order), samples)):
            chosen = {i: images[i] for i in order[start : start + samples]}
            _write_shard(out / part / f"{number:06d}.tar", chosen)
    write_recorded_json(list(names), out / "classes.json")


def _write_shard(path: Path, images: dict[int, folder.ImageFile]) -> None:
    """A shard, and before it its index: without the latter the former would be read unchecked."""
    places = []
    with atomic_write(path) as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            for i, image in images.items():
                content = regular_file(image.path).read_bytes()
                _add(tar, f"{i:08d}{image.path.suffix.lower()}", content)
                start = tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                places.append(Place(start, len(content), image.label, zlib.crc32(content)))
                _add(tar, f"{i:08d}.cls", str(image.label).encode())
        write_recorded_json({"bytes": file.tell(), "samples": places}, path.with_suffix(".json"))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main(argv: Sequence[str] | None = None) -> int:
    prog = "python -m dl.mytorch.data.images.tar"
    parser = Parser(description="Write a folder of images as tar files for --data tar:SHARDS.", prog=prog)
    parser.add_argument("images", type=user_path, metavar="IMAGES", help="folder of images as --data folder:IMAGES takes it")
    parser.add_argument("shards", type=user_path, metavar="SHARDS", help="folder to write to, new or empty")
    options = parser.parse_args(argv)
    try:
        write_shards(options.images, options.shards)
    except (OSError, UserError) as error:
        print_error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
