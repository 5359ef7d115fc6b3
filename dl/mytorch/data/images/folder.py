"""Anyone's own images, `--data folder:PATH`: a folder for each class, PATH/cats/*.jpg, or PATH/train/cats/*.jpg and so on.

As in torchvision's ImageFolder, a class has the images of its folder and of all folders inside it. PATH may also hold one
folder that holds all this, as archives are often packed.
"""

import os
from itertools import groupby
from pathlib import Path
from typing import Iterator, Mapping, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.augment import Transform, compose, normalize
from dl.mytorch.data.images.imagefile import SUFFIXES, centre_square, check_images, read_image
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.split import Split, check_split

IMAGENET = normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and std of ImageNet's photographs
LAYOUT = "each class needs a folder of its images, as PATH/cats/1.jpg or PATH/train/cats/1.jpg"


class ImageFile(NamedTuple):
    path: Path
    label: int


def set_folder(root: Path) -> Path:
    """Return the folder that holds the classes or parts: `root`, or the one in it, as archives are often packed."""
    inside = _folders(root) if root.is_dir() else []
    if len(inside) == 1 and _folders(inside[0]) and not any(_is_image(path) for path in inside[0].iterdir()):
        return root if inside[0].name == "train" else inside[0]
    return root


def class_names(root: Path) -> tuple[str, ...]:
    """Return the names of the classes, in alphabetical order.

    Raises `UserError` unless `root` holds the folders of two or more, with names in UTF-8.
    """
    if not root.is_dir():
        raise UserError(f"--data folder:{root}: there is no such folder")
    top = set_folder(root)
    names = tuple(path.name for path in _folders(part_of(top, "train") or top))
    if len(names) < 2:
        found = f"the one class {names[0]}" if names else "no folders"
        raise UserError(f"--data folder:{root} holds {found}: there have to be two classes at least, and {LAYOUT}")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:  # it could neither be drawn nor be logged at the end
            raise UserError(f"--data folder:{root}: the folder {os.fsencode(name)!r} has no name in UTF-8: rename it") from None
    return names


def folder_splits(
    config: TrainConfig, root: Path, size: int, augment: Transform | None = None, to_input: Transform = IMAGENET
) -> Splits:
    """The images in `root`/train, val (or valid, or validation) and test. Of the classes in train (in `root`, if there is
    no train), each part that is missing gets a tenth, drawn by the seed from each class.

    Batches: "images" (B, 3, `size`, `size`), the squares in the middle, made by `to_input` of bytes; "labels" (B,).
    Images are read when their batch comes, by `config.num_workers` processes; `augment` sees training images as bytes.
    Raises `UserError` when a part or a class of training has no images, when a file is no image (the beginnings of all
    files are looked at before training), or when the run in `config.out` began with other images.
    """
    names, root = class_names(root), set_folder(root)
    parts = _listed(root, names)
    if without := set(range(len(names))) - {image.label for image in parts["train"]}:
        raise UserError(f"{root} has no images to train on of {', '.join(names[i] for i in sorted(without))}; {LAYOUT}")
    parts |= _held_out(parts["train"], [part for part in ("val", "test") if part not in parts], config.seed)
    if empty := [part for part, images in parts.items() if not images]:
        raise UserError(f"{root} has too few images: none are left for {' and '.join(empty)}")
    check_images([image.path for images in parts.values() for image in images])
    split = {part: [image.path.relative_to(root).as_posix() for image in of] for part, of in parts.items()}
    return splits_of_files(config, {part: ImageFiles(of, size) for part, of in parts.items()}, augment, to_input, names, split)


def splits_of_files(
    config: TrainConfig,
    sets: dict[str, Dataset],
    augment: Transform | None,
    to_input: Transform,
    classes: Sequence[str],
    split: Split,
    shards: Mapping[str, Tensor] | None = None,
) -> Splits:
    """Loaders of "train", "val" and "test" after `to_input`, before which `augment` sees training images as bytes.

    shards: of each part, what its `Loader` needs if ranks read files of their own.
    Raises `UserError` when `split` is not that of the run in `config.out`.
    """
    check_split(split, config)
    augmented = to_input if augment is None else compose(augment, to_input)

    def loader(part: str, transform: Transform, shuffle: bool = False) -> Loader:
        how = {"shuffle": shuffle, "seed": config.seed, "num_workers": config.num_workers, "transform": transform}
        return Loader(sets[part], config.batch_size, shards=shards[part] if shards else None, **how)

    loaders = loader("train", augmented, shuffle=True), loader("val", to_input), loader("test", to_input)
    return Splits(*loaders, names=tuple(classes), split=split)


class ImageFiles(Dataset):
    """Images as squares of bytes: {"images" (3, `size`, `size`), "labels"}."""

    def __init__(self, files: list[ImageFile], size: int) -> None:
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Batch:
        path, label = self.files[i]
        return {"images": centre_square(read_image(path), self.size), "labels": torch.tensor(label)}


def part_of(root: Path, name: str) -> Path | None:
    """Return the folder of a part, if it holds folders of classes: PATH/train/1.jpg are images of trains.

    That of "val" may be called valid or validation. Raises `UserError` when there are several.
    """
    names = ("val", "valid", "validation") if name == "val" else (name,)
    found = [root / name for name in names if (root / name).is_dir() and _folders(root / name)]
    if len(found) > 1:
        raise UserError(f"{root} holds {' and '.join(path.name for path in found)}, which all mean one part: keep one of them")
    return found[0] if found else None


def _folders(root: Path) -> list[Path]:
    """But for hidden ones, and for __MACOSX and the like, which are no classes."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def list_images(root: Path, names: tuple[str, ...]) -> list[ImageFile]:
    """Class by class, by name. Files that have no image's suffix, and hidden ones, do not count."""
    if unknown := [path.name for path in _folders(root) if path.name not in names]:
        raise UserError(f"{root} holds classes that are not in train: {', '.join(unknown)}")
    folders = [(root / name, label) for label, name in enumerate(names) if (root / name).is_dir()]
    return [ImageFile(path, label) for folder, label in folders for path in _images(folder)]


def _images(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield the images of a folder by name, then those of the folders in it; links are followed."""
    above = (*above, os.path.realpath(folder))
    if above[-1] in above[:-1]:
        raise UserError(f"{folder} is a link to a folder that it is in: remove it")
    yield from sorted(path for path in folder.iterdir() if _is_image(path))
    for inside in _folders(folder):
        yield from _images(inside, above)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()


def _listed(root: Path, names: tuple[str, ...]) -> dict[str, list[ImageFile]]:
    """Return the images of the parts that there are, "train" at least."""
    parts = {part: folder for part in ("train", "val", "test") if (folder := part_of(root, part))}
    if "train" in parts:
        return {part: list_images(folder, names) for part, folder in parts.items()}
    for folder in parts.values():
        if {path.name for path in _folders(folder)} & set(names):
            raise UserError(f"{root} holds {folder.name} and no train: move the folders of the other classes into {root}/train")
    return {"train": list_images(root, names)}


def _held_out(images: list[ImageFile], missing: list[str], seed: int) -> dict[str, list[ImageFile]]:
    """A tenth of each class for each missing part, one image at least if that leaves one to train on; the rest is "train"."""
    parts: dict[str, list[ImageFile]] = {"train": [], **{part: [] for part in missing}}
    generator = torch.Generator().manual_seed(seed)
    for _, group in groupby(images, key=lambda image: image.label):
        own = list(group)
        own = [own[i] for i in torch.randperm(len(own), generator=generator)]
        share = max(1, len(own) // 10) if len(own) > len(missing) else 0
        for part in missing:
            parts[part] += own[:share]
            own = own[share:]
        parts["train"] += own
    return parts
