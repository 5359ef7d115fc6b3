"""What can be indexed: a folder of images, however deep, or a data set by its name."""

import contextlib
import hashlib
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data import ImageConfig, image_set, image_splits, read_image
from dl.mytorch.data.images.imagefile import SUFFIXES
from dl.mytorch.data.images.sets import IMAGE_SETS
from dl.mytorch.progress import Progress


class Images(NamedTuple):
    """Images in a fixed order."""

    source: str  # what `open_images` opens again
    names: list[str]
    labels: list[str]  # "" for none
    stamp: Callable[[int], str]  # number -> what changes when the image of this name does; it takes reading its file
    read: Callable[[int], Tensor]  # number -> (3, H, W) of bytes; raises `UserError` for what is no image


def open_images(source: str, part: str = "train", seed: int = 0) -> Images:
    """Return the images of a folder, labelled by the folders that they are in, or of a part of a data set.

    The validation part of a data set is that of runs with this seed. Raises `UserError` when there are none.
    """
    if Path(source).is_dir():
        return _of_folder(Path(source))
    if source not in IMAGE_SETS:
        raise UserError(f"{source} is no folder and no data set; there are {', '.join(IMAGE_SETS)}")
    config = ImageConfig(out="-", data=source, seed=seed)
    classes = image_set(config).classes
    data = getattr(image_splits(config), part).dataset
    names = [f"{part}/{i:05d}" for i in range(len(data["labels"]))]
    labels = [classes[label] for label in data["labels"].tolist()]
    return Images(source, names, labels, lambda i: f"seed {seed}", lambda i: data["images"][i].expand(3, -1, -1))


def _of_folder(root: Path) -> Images:
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    names = [path.relative_to(root).as_posix() for path in files]
    shown = [i for i, name in enumerate(names) if not any(word.startswith(".") for word in name.split("/"))]
    files, names = [files[i] for i in shown], [names[i] for i in shown]
    if not files:
        raise UserError(f"{root} holds no images ({' '.join(sorted(SUFFIXES))})")
    labels = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    return Images(str(root.resolve()), names, labels, lambda i: _stamp(files[i]), lambda i: read_image(files[i]))


def _stamp(path: Path) -> str:
    """Return the checksum of a file, as its size and time can stay when it changes; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def track(numbers: range, unit: str, what: str = "") -> Iterator[int]:
    """Yield `numbers` and show how many are done."""
    with contextlib.closing(Progress(len(numbers), unit, what)) as progress:
        for number in numbers:
            yield number
            progress.update()
