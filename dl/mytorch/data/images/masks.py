"""Images whose target is an image: a class for each pixel. `--data masks:PATH`, and ISBI 2012 by name.

PATH/images has the images, PATH/masks for each a mask under the same name, its suffix aside, or under name_mask; or
PATH/train/images, PATH/train/masks, and the same in val and test. Other names of the folders: image; mask, label, labels.
A mask has a value for each pixel, in greys or in a palette: the classes are the values that occur, from the smallest on. 255
is "do not count", except in masks of black and white, of 0 and 255 alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NamedTuple, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from dl.mytorch.config import TrainConfig, UserError, flag
from dl.mytorch.data.augment import Transform, compose, normalize
from dl.mytorch.data.images import isbi
from dl.mytorch.data.images.folder import IMAGENET
from dl.mytorch.data.images.imagefile import SUFFIXES, check_images, image_size, read_image, read_values
from dl.mytorch.data.images.windows import IGNORE, jitter, random_windows
from dl.mytorch.data.loader import Batch, Loader, Splits
from dl.mytorch.data.sources import held_out
from dl.mytorch.data.split import check_split, names_file, read_names

IMAGES, MASKS = ("images", "image"), ("masks", "mask", "labels", "label")
LAYOUT = "PATH/images/1.jpg needs PATH/masks/1.png (or the same in PATH/train, PATH/val, PATH/test)"
ISBI = normalize([0.5], [0.17])  # of its training slices: 0.49 and 0.17
Weigh = Callable[[Tensor], Tensor]  # a mask (H, W) to the weight of each pixel in the loss (H, W)


class MaskSet(NamedTuple):
    """What a network has to know of the images that it will see."""

    channels: int
    classes: tuple[str, ...]
    standard: Transform  # bytes to what the network sees


class MaskFile(NamedTuple):
    image: Path
    mask: Path


@dataclass(frozen=True)
class MaskConfig(TrainConfig):
    """What a recipe that classifies pixels can be told beside: which images, and how they are changed in training."""

    data: str = flag("isbi2012", "isbi2012: membranes of cells; or masks:PATH, images and a mask for each, see images/masks.py")
    window: int = flag(388, "side in pixels of the part of an image that one training example asks about")
    flips: bool = flag(True, "turn and flip windows: the eight symmetries of a square")
    zoom: float = flag(0.0, "largest change of size: windows are scaled by 1 / (1 + zoom) to 1 + zoom")
    elastic: float = flag(10.0, "std in pixels of the elastic deformation on a grid of 3 x 3; 0 = none")
    jitter: float = flag(0.0, "largest change of contrast, and half of it of brightness, as a part of the full range")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("window", 1 <= self.window <= 8192, "from 1 to 8192")
        self._check("zoom", 0 <= self.zoom <= 9, "from 0 to 9")
        self._check("elastic", 0 <= self.elastic <= 1000, "from 0 to 1000")
        self._check("jitter", 0 <= self.jitter <= 1, "from 0 to 1")
        if self.data != "isbi2012" and self.data_path("masks:") is None:
            raise UserError(f"--data {self.data}: no such set of images with masks; there are isbi2012 and masks:PATH")


def mask_set(config: MaskConfig) -> MaskSet:
    """Return the set that `config.data` names. Of a run whose images are gone, the classes are those that it recorded.

    Raises `UserError` for a folder without images or masks.
    """
    root = config.data_path("masks:")
    if root is None:
        return MaskSet(1, isbi.CLASSES, ISBI)
    if not root.is_dir() and names_file(config.out).exists():
        return MaskSet(3, read_names(names_file(config.out)), IMAGENET)
    return MaskSet(3, tuple(map(str, class_values(listed(root)["train"]))), IMAGENET)


def mask_splits(config: MaskConfig, margin: int = 0, weigh: Weigh | None = None) -> Splits:
    """Return the images that `config.data` names.

    Training batches: "images" (B, C, window + 2 margin, window + 2 margin), "masks" (B, window, window), "weights" of the same
    shape by `weigh`, once for each mask. Validation and test are images at full size, one in a batch, so that no result
    depends on padding. Of a folder, each part that is missing gets a tenth, drawn by the seed.

    Raises `UserError` for an image without a mask, a mask of another size or with a value that training lacks, and when the run
    in `config.out` began with other images.
    """
    root = config.data_path("masks:")
    sets, names, split = _of_isbi(weigh) if root is None else _of_folder(root, config.seed, weigh)
    if split is not None:
        check_split(split, config)
    standard = ISBI if root is None else IMAGENET
    steps = [jitter(config.jitter, config.jitter / 2)] if config.jitter else []
    zoom = 1 + config.zoom
    steps += [random_windows(config.window, margin, config.flips, (1 / zoom, zoom), config.elastic), standard]
    workers = 0 if root is None else config.num_workers
    collate = None if root is None else padded
    options = {"num_workers": workers, "collate": collate}
    train = Loader(sets["train"], config.batch_size, shuffle=True, seed=config.seed, transform=compose(*steps), **options)
    others = (Loader(sets[part], 1, transform=standard, **options) for part in ("val", "test"))
    return Splits(train, *others, names=names, split=split)


def padded(examples: list[Batch]) -> Batch:
    """Join examples of any size: images padded by 0 to the right and below, masks by IGNORE. Adds the real "sizes" (B, 2)."""
    sizes = torch.tensor([example["images"].shape[-2:] for example in examples])
    height, width = sizes.amax(0).tolist()
    fill = {"images": 0, "masks": IGNORE, "weights": 0}

    def pad(name: str, value: Tensor) -> Tensor:
        return F.pad(value, (0, width - value.shape[-1], 0, height - value.shape[-2]), value=fill[name])

    batch = {name: torch.stack([pad(name, example[name]) for example in examples]) for name in examples[0]}
    return batch | {"sizes": sizes}


class MaskFiles(Dataset):
    """{"images" (3, H, W), "masks" (H, W)} of bytes, and with `weigh` "weights" (H, W); `values` are those of the classes."""

    def __init__(self, files: Sequence[MaskFile], values: Sequence[int], weigh: Weigh | None = None) -> None:
        self.files, self.values = files, values
        self.weights = [] if weigh is None else [weigh(self.mask(file)).half() for file in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Batch:
        example = {"images": read_image(self.files[i].image), "masks": self.mask(self.files[i])}
        if example["images"].shape[1:] != example["masks"].shape:  # the file says so when opened: EXIF turns it
            raise UserError(f"{self.files[i].image} is turned by its EXIF data, its mask is not: save it upright")
        return example | ({"weights": self.weights[i].float()} if self.weights else {})

    def mask(self, file: MaskFile) -> Tensor:
        """Return the classes of pixels (H, W). Raises `UserError` for a value that is no class."""
        classes = torch.full((256,), -1, dtype=torch.int16)
        classes[IGNORE] = IGNORE
        classes[list(self.values)] = torch.arange(len(self.values), dtype=torch.int16)
        values = read_values(file.mask)
        mask = classes[values.long()]
        if (mask < 0).any():
            raise UserError(f"{file.mask} has the value {int(values[mask < 0][0])}, which no mask of training has")
        return mask.byte()


def class_values(files: Sequence[MaskFile]) -> tuple[int, ...]:
    """Return the values of masks that are classes, in order. Raises `UserError` unless there are two at least."""
    found = sorted({value for file in files for value in read_values(file.mask).unique().tolist()})
    values = tuple(value for value in found if value != IGNORE or found == [0, IGNORE])
    if len(values) < 2:
        raise UserError(f"the masks in {files[0].mask.parent} have one class, {values}: there have to be two at least")
    return values


def _of_isbi(weigh: Weigh | None) -> tuple[dict[str, Batch], tuple[str, ...], None]:
    images, masks = isbi.isbi2012()
    sets = {part: {"images": images[list(places)], "masks": masks[list(places)]} for part, places in isbi.PARTS.items()}
    if weigh is not None:
        sets["train"]["weights"] = torch.stack([weigh(mask) for mask in sets["train"]["masks"]])
    return sets, isbi.CLASSES, None


def _of_folder(
    root: Path, seed: int, weigh: Weigh | None
) -> tuple[dict[str, MaskFiles], tuple[str, ...], dict[str, list[str]]]:
    parts = listed(root)
    values = class_values(parts["train"])
    parts = held_out(parts, seed)
    if empty := [part for part, files in parts.items() if not files]:
        raise UserError(f"{root} has too few images: none are left for {' and '.join(empty)}")
    check_pairs([file for part in parts.values() for file in part])
    split = {part: [file.image.relative_to(root).as_posix() for file in of] for part, of in parts.items()}
    sets = {part: MaskFiles(of, values, weigh if part == "train" else None) for part, of in parts.items()}
    return sets, tuple(map(str, values)), split


def check_pairs(files: Sequence[MaskFile]) -> None:
    """Look at the beginnings of all files. Raises `UserError` for what is no image, and for a mask of another size."""
    check_images([path for file in files for path in file])
    for file in files:
        if image_size(file.image) != image_size(file.mask):
            raise UserError(f"{file.mask} is {_size(file.mask)}, its image {_size(file.image)}: save it at the image's size")


def _size(path: Path) -> str:
    width, height = image_size(path)
    return f"{width} x {height}"


def listed(root: Path, names: tuple[Sequence[str], Sequence[str]] = (IMAGES, MASKS)) -> dict[str, list[MaskFile]]:
    """Return the images with their masks of the parts that there are, "train" at least.

    `names` are those that the folders of images and of masks may have. Raises `UserError` for images without masks.
    """
    folders = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
    if folders and "train" not in folders:
        raise UserError(f"--data masks:{root} holds {', '.join(folders)} and no train; {LAYOUT}")
    return {part: _pairs(folder, names) for part, folder in (folders or {"train": root}).items()}


def _pairs(folder: Path, names: tuple[Sequence[str], Sequence[str]]) -> list[MaskFile]:
    """Return the images of one part, by name, each with its mask."""
    inside = [next((folder / name for name in of if (folder / name).is_dir()), None) for of in names]
    if None in inside:
        raise UserError(f"--data masks:PATH: {folder} needs folders {IMAGES[0]} and {MASKS[0]}: {LAYOUT}")
    images, masks = (
        {path.stem: path for path in sorted(where.iterdir()) if path.suffix.lower() in SUFFIXES} for where in inside
    )
    masks = {stem.removesuffix("_mask"): path for stem, path in masks.items()}
    if without := sorted(images.keys() - masks.keys()):
        raise UserError(f"{len(without)} images in {inside[0]} have no mask in {inside[1]}, {without[0]} first; {LAYOUT}")
    if not images:
        raise UserError(f"{inside[0]} holds no images; {LAYOUT}")
    return [MaskFile(path, masks[stem]) for stem, path in images.items()]
