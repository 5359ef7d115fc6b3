"""Folders as of Pascal VOC, `--data voc:PATH`, and the blood cells of BCCD, which come so.

PATH/JPEGImages has the images, PATH/Annotations for each an .xml under the same name, with one <object> for each box, and
PATH/ImageSets/Main/train.txt, val.txt and test.txt the names of each part; a part that is missing gets a tenth of the training
images, and without train.txt, all images are "train". PATH may also hold one folder that holds all this.

Everingham et al. 2010 count pixels from one, the last one included: a box of the full 640 x 480 image is 1, 1, 640, 480, and
becomes [0, 0, 640, 480] here. A set in which a box begins at 0 counts from zero, and is read so.
"""

import math
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import torch

from dl.mytorch.config import UserError
from dl.mytorch.data.boxes.files import BoxFile, BoxFolder, cleaned
from dl.mytorch.data.images.imagefile import SUFFIXES, check_images, image_size
from dl.mytorch.files import regular_file

LAYOUT = "PATH/JPEGImages/1.jpg needs PATH/Annotations/1.xml"
LARGEST = 2**22  # bytes of an .xml: some 10,000 boxes
IMAGES = ("JPEGImages", "images")


class Annotation(NamedTuple):
    names: list[str]
    corners: list[list[float]]  # xmin, ymin, xmax, ymax as they are written
    difficult: list[bool]  # too hard to tell, say the annotators: a crowd here
    size: tuple[int, int] | None  # (width, height)


def read_voc(root: Path) -> BoxFolder:
    """Return the images and boxes in a folder. Classes are those of the training images, by name.

    Raises `UserError` for an image without an .xml, an .xml that states another size or is not as it should be, and for a
    box whose class no training image has.
    """
    root = _top(root)
    lists = {part: _names(root / "ImageSets" / "Main" / f"{part}.txt") for part in ("train", "val", "test")}
    lists = {part: names for part, names in lists.items() if names}
    folder = next((root / name for name in IMAGES if (root / name).is_dir()), None)
    if folder is None:
        raise UserError(f"--data voc:{root} has no folder {IMAGES[0]}: {LAYOUT}")
    images = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    if "train" not in lists:
        if lists:
            raise UserError(f"{root / 'ImageSets' / 'Main'} has {' and '.join(lists)}.txt and no train.txt: add it")
        lists = {"train": list(images)}
    _check_lists(lists, images, root)
    found = {name: read_annotation(root / "Annotations" / f"{name}.xml") for names in lists.values() for name in names}
    check_images([images[name] for name in found])
    actual = {name: image_size(images[name]) for name in found}
    for name, annotation in found.items():
        if annotation.size and annotation.size != actual[name]:
            sizes = ", the image ".join(f"{width} x {height}" for width, height in (annotation.size, actual[name]))
            raise UserError(f"{root / 'Annotations' / name}.xml is of an image of {sizes}: its boxes do not fit")
    classes = tuple(sorted({kind for name in lists["train"] for kind in found[name].names}))
    if not classes:
        raise UserError(f"{root}: no training image has a box")
    for name, annotation in found.items():
        if unknown := set(annotation.names) - set(classes):
            raise UserError(f"{root / 'Annotations' / name}.xml has a {min(unknown)}, which no training image has")
    from_zero = [name for name, annotation in found.items() if any(0 <= min(corner[:2]) < 1 for corner in annotation.corners)]
    parts = {
        part: [_file(images[name], actual[name], found[name], classes, not from_zero) for name in names]
        for part, names in lists.items()
    }
    parts, notes = cleaned(parts)
    if from_zero:
        notes += (f"boxes of {len(from_zero)} images begin at 0 (first: {from_zero[0]}): all are read as counted from zero",)
    return BoxFolder(classes, parts, notes)


def read_annotation(path: Path) -> Annotation:
    """Return what an .xml says of an image. Raises `UserError` for one with a DTD, of more than 4 MiB or not as VOC's."""
    tree = _parsed(path)
    objects = tree.findall("object")
    names = [(found.findtext("name") or "").strip() for found in objects]
    if "" in names:
        raise UserError(f"{path}: object {names.index('') + 1} has no name")
    corners = [
        [_number(found, f"bndbox/{side}", path, i) for side in ("xmin", "ymin", "xmax", "ymax")]
        for i, found in enumerate(objects, start=1)
    ]
    difficult = [(found.findtext("difficult") or "0").strip() == "1" for found in objects]
    size = tuple((tree.findtext(f"size/{side}") or "0").strip() for side in ("width", "height"))
    stated = all(side.isdecimal() and 0 < int(side[:9]) for side in size)  # some programs write 0
    return Annotation(names, corners, difficult, (int(size[0][:9]), int(size[1][:9])) if stated else None)


def _parsed(path: Path) -> ElementTree.Element:
    if regular_file(path).stat().st_size > LARGEST:
        raise UserError(f"{path} is too large to be an image's boxes: more than {LARGEST} bytes")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: save it so") from None
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):  # before parsing: entities can grow to more than memory
        raise UserError(f"{path} has a DTD (<!DOCTYPE ...>), which no image's boxes need: remove it")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is no XML: {error}") from None


def _number(found: ElementTree.Element, side: str, path: Path, i: int) -> float:
    text = (found.findtext(side) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < 2**31:
        raise UserError(f"{path}: object {i} has {text[:20]!r} as its {side}, which has to be a number")
    return value


def _file(image: Path, size: tuple[int, int], annotation: Annotation, classes: tuple[str, ...], from_one: bool) -> BoxFile:
    corners = torch.tensor(annotation.corners).view(-1, 4)
    drawn = (corners[:, 2:] > corners[:, :2]).all(1)  # of one pixel is a click, not a box: two in BCCD
    boxes = (corners - torch.tensor([1.0, 1, 0, 0]) * from_one) * drawn[:, None]
    labels = torch.tensor([classes.index(name) for name in annotation.names], dtype=torch.long)
    return BoxFile(image, size, boxes, labels, torch.tensor(annotation.difficult, dtype=torch.bool))


def _top(root: Path) -> Path:
    """Return the folder that holds Annotations: `root` or the one in it."""
    if not root.is_dir():
        raise UserError(f"--data voc:{root}: there is no such folder")
    places = [path for path in (root, *sorted(root.iterdir())) if (path / "Annotations").is_dir()]
    if not places or (len(places) > 1 and places[0] != root):
        raise UserError(f"--data voc:{root} holds {len(places) or 'no'} folders with Annotations: {LAYOUT}")
    return places[0]


def _names(path: Path) -> list[str]:
    if not path.exists():
        return []
    try:
        return [line.split()[0] for line in regular_file(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: a name of an image in each line") from None


def _check_lists(lists: dict[str, list[str]], images: dict[str, Path], root: Path) -> None:
    names = [name for part in lists.values() for name in part]
    if not names:
        raise UserError(f"{root} holds no images; {LAYOUT}")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{root / 'ImageSets' / 'Main'} names {twice[0]} twice: an image is in one part")
    if missing := [name for name in names if name not in images]:
        raise UserError(f"{root} lacks {len(missing)} images that ImageSets names, {missing[0]} first")
    if without := [name for name in names if not (root / "Annotations" / f"{name}.xml").exists()]:
        raise UserError(f"{len(without)} images have no .xml in {root / 'Annotations'}, {without[0]} first; {LAYOUT}")
