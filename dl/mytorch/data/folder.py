"""Anyone's own pictures, `--data folder:PATH`: a folder for each class, PATH/cats/*.jpg, or PATH/train/cats/*.jpg and so on."""

import warnings
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Callable, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.augment import Augment, compose, normalize
from dl.mytorch.data.loader import Batch, Loader, Splits

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}  # torchvision's: a .gif is a web page's
IMAGENET = normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])  # mean and deviation of ImageNet's photographs
LAYOUT = "each class needs a folder of its pictures, as PATH/cats/1.jpg or PATH/train/cats/1.jpg"


class Picture(NamedTuple):
    path: Path
    label: int


# ---- one picture ---------------------------------------------------------------------------------------------------


def read_image(path: Path | str, content: BinaryIO | None = None) -> Tensor:
    """A picture as bytes (3, H, W), upright as its EXIF says, transparent parts white.

    With `content`, the bytes of its file, `path` only says where they are from. Of an animation the first picture. Floats
    are from 0 to 1. Colour profiles are not applied. Raises `UserError`, one line with the file and the cause, for what
    cannot be read or is larger than Pillow's limit (179 million pixels).
    """
    from PIL import ImageOps

    pixels = _opened(path, lambda image: np.array(_rgb(ImageOps.exif_transpose(image))), content)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def centre_square(image: Tensor, size: int) -> Tensor:
    """The largest square (C, size, size) in the middle of an image (C, H, W) of bytes, made smaller or larger."""
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[None, :, top : top + side, left : left + side]
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0]


def _opened(path: Path | str, use: Callable[["Image.Image"], Any], content: BinaryIO | None = None) -> Any:
    """`use` of the opened image; whatever goes wrong becomes one line."""
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of large pictures below the limit
            with Image.open(content or path) as image:
                return use(image)
    except FileNotFoundError:
        cause = "there is no such file"
    except IsADirectoryError:
        cause = "is a folder, not a picture"
    except UnidentifiedImageError:
        cause = "is not a picture of a known format" if content or path.stat().st_size else "is empty"
    except Exception as error:  # the readers of the many formats raise whatever they come upon
        cause = f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"
    raise UserError(f"{path} {cause}")


def _rgb(image: "Image.Image") -> "Image.Image":
    """An image of any mode as one of 8 bits in red, green and blue."""
    from PIL import Image

    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if image.mode == "F":  # grey of floats, which Pillow would cut off to whole numbers
        floats = np.asarray(image)
        if not (floats.min() >= 0 and floats.max() <= 1):  # NaN is neither
            raise ValueError(f"its floats are from {floats.min():g} to {floats.max():g}, not from 0 to 1: save it as bytes")
        image = Image.fromarray((floats * 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


# ---- a folder of them ----------------------------------------------------------------------------------------------


def class_names(root: Path) -> tuple[str, ...]:
    """The names of the classes, in alphabetical order. Raises `UserError` unless `root` holds the folders of two or more."""
    if not root.is_dir():
        raise UserError(f"--data folder:{root}: there is no such folder")
    names = tuple(path.name for path in _folders(part_of(root, "train") or root))
    if len(names) < 2:
        found = f"the one class {names[0]}" if names else "no folders"
        raise UserError(f"--data folder:{root} holds {found}: there have to be two classes at least, and {LAYOUT}")
    return names


def folder_splits(config: TrainConfig, root: Path, size: int, augment: Augment | None = None) -> Splits:
    """The pictures in `root`/train, val (or valid, or validation) and test. Of the classes in train (in `root`, if there is
    no train), each part that is missing gets a tenth, drawn by the seed from each class.

    Batches: "images" (B, 3, `size`, `size`), the squares in the middle, standardised like ImageNet's; "labels" (B,).
    Pictures are read when their batch comes, by `config.num_workers` processes; `augment` sees training images as bytes.
    Raises `UserError` when a part or a class of training has no pictures, or when a file is no picture: the beginnings
    of all files are looked at before training.
    """
    names = class_names(root)
    parts = {part: list_pictures(folder, names) for part in ("train", "val", "test") if (folder := part_of(root, part))}
    missing = [part for part in ("val", "test") if part not in parts]
    pictures = parts["train"] if "train" in parts else list_pictures(root, names)
    if without := set(range(len(names))) - {picture.label for picture in pictures}:
        raise UserError(f"{root} has no pictures to train on of {', '.join(names[i] for i in sorted(without))}; {LAYOUT}")
    parts |= _held_out(pictures, missing, config.seed)
    if empty := [part for part, pictures in parts.items() if not pictures]:
        raise UserError(f"{root} has too few pictures: none are left for {' and '.join(empty)}")
    _check([picture.path for pictures in parts.values() for picture in pictures])
    return picture_splits(config, {part: Pictures(of, size) for part, of in parts.items()}, augment)


def picture_splits(config: TrainConfig, sets: dict[str, Dataset], augment: Augment | None) -> Splits:
    """Loaders of "train", "val" and "test", standardised like ImageNet's; `augment` sees training images as bytes."""
    augmented = IMAGENET if augment is None else compose(augment, IMAGENET)
    workers = config.num_workers
    return Splits(
        Loader(sets["train"], config.batch_size, shuffle=True, seed=config.seed, num_workers=workers, augment=augmented),
        Loader(sets["val"], config.batch_size, num_workers=workers, augment=IMAGENET),
        Loader(sets["test"], config.batch_size, num_workers=workers, augment=IMAGENET),
    )


class Pictures(Dataset):
    """Pictures as squares of bytes: {"images" (3, `size`, `size`), "labels"}."""

    def __init__(self, pictures: list[Picture], size: int) -> None:
        self.pictures = pictures
        self.size = size

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Batch:
        path, label = self.pictures[i]
        return {"images": centre_square(read_image(path), self.size), "labels": torch.tensor(label)}


def part_of(root: Path, name: str) -> Path | None:
    """The folder of a part, if it holds folders of classes: PATH/train/1.jpg are pictures of trains.

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


def list_pictures(root: Path, names: tuple[str, ...]) -> list[Picture]:
    """Class by class, by name. Files that have no picture's suffix, and hidden ones, do not count."""
    if unknown := [path.name for path in _folders(root) if path.name not in names]:
        raise UserError(f"{root} holds classes that are not in train: {', '.join(unknown)}")
    pictures = []
    for label, name in enumerate(names):
        files = sorted((root / name).iterdir()) if (root / name).is_dir() else []
        chosen = [file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
        pictures += [Picture(file, label) for file in chosen if not file.is_dir()]
    return pictures


def _held_out(pictures: list[Picture], missing: list[str], seed: int) -> dict[str, list[Picture]]:
    """A tenth of each class for each missing part, one picture at least if that leaves one to train on; the rest is "train"."""
    parts: dict[str, list[Picture]] = {"train": [], **{part: [] for part in missing}}
    generator = torch.Generator().manual_seed(seed)
    for _, group in groupby(pictures, key=lambda picture: picture.label):
        own = list(group)
        own = [own[i] for i in torch.randperm(len(own), generator=generator)]
        share = max(1, len(own) // 10) if len(own) > len(missing) else 0
        for part in missing:
            parts[part] += own[:share]
            own = own[share:]
        parts["train"] += own
    return parts


def _check(paths: list[Path]) -> None:
    """Look at the beginning of each file. Raises `UserError` that counts the bad ones and names the first."""
    bad = []
    for path in paths:
        try:
            _opened(path, lambda image: None)
        except UserError as error:
            bad.append(str(error))
    if bad:
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise UserError(f"{len(bad)} of {len(paths)} pictures have to be repaired or removed: {'; '.join(bad[:3])}{more}")
