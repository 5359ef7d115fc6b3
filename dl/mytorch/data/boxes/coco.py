"""COCO's format, `--data coco:PATH`: one .json for each part with all boxes, and perhaps outlines, of its images.

PATH/annotations/instances_train2017.json and instances_val2017.json with the images in PATH/train2017 and val2017, or in
PATH/images; or PATH/train/_annotations.coco.json beside the images, and the same in valid and test; or one .json in PATH, which
is "train". A part that is missing gets a tenth of the training images. Lin et al. 2014, https://arxiv.org/abs/1405.0312.

Boxes are written as x, y, width, height from zero. A mask is there for the pixels whose centre is inside of the outline.
"""

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, Iterable, Sequence

import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.data.boxes.files import BoxFile, BoxFolder, cleaned
from dl.mytorch.data.boxes.outlines import is_outline, outlines
from dl.mytorch.data.images.imagefile import check_images, image_size
from dl.mytorch.files import read_json

LAYOUT = "PATH/annotations/instances_train.json needs its images in PATH/train or PATH/images"
PARTS = {"train": {"train"}, "val": {"val", "valid", "validation"}, "test": {"test"}}
OTHERS = {"captions", "keypoints", "stuff", "panoptic", "info"}  # what else COCO has of its images
IMAGE = {"id": int, "file_name": str, "width?": int, "height?": int}
ANNOTATION = {"id": int, "image_id": int, "category_id": int, "bbox": [float], "iscrowd?": int, "segmentation?": object}
SCHEMA = {"images": [IMAGE], "annotations": [ANNOTATION], "categories": [{"id": int, "name": str}]}


def read_coco(root: Path) -> BoxFolder:
    """Return the images and boxes in a folder; classes are the categories in the order of their ids.

    Raises `UserError` for ids that occur twice, annotations of images or categories that there are not, parts with different
    categories, missing images, and images of another size.
    """
    places = _places(root)
    content = {part: read_json(path, SCHEMA, limit=2**30) for part, path in places.items()}
    categories = {part: _categories(content[part], path) for part, path in places.items()}
    for part, path in places.items():
        if categories[part] != categories["train"]:
            raise UserError(f"{path} has other categories than {places['train']}: they have to be the same in all parts")
    ids = sorted(categories["train"])
    outlined = [is_outline(each.get("segmentation")) for part in content.values() for each in part["annotations"]]
    parts = {part: _files(content[part], path, root, part, ids, all(outlined)) for part, path in places.items()}
    parts, notes = cleaned(parts)
    if not any(len(file.labels) for file in parts["train"]):
        raise UserError(f"{places['train']}: no training image has a box")
    if ids[-1] - ids[0] >= len(ids):
        notes += (f"ids of categories from {ids[0]} to {ids[-1]} have gaps: {len(ids)} classes are numbered in their order",)
    if any(outlined) and not all(outlined):
        notes += (f"{outlined.count(False)} of {len(outlined)} boxes have no outline: masks are not used",)
    return BoxFolder(tuple(categories["train"][i] for i in ids), parts, notes)


def _places(root: Path) -> dict[str, Path]:
    """Return the .json of each part, "train" at least."""
    if not root.is_dir():
        raise UserError(f"--data coco:{root}: there is no such folder")
    found = [path for pattern in ("*.json", "annotations/*.json", "*/_annotations.coco.json") for path in root.glob(pattern)]
    found = [path for path in sorted(found) if not _words(path.relative_to(root)) & OTHERS]
    parts = {part: [path for path in found if _words(path.relative_to(root)) & names] for part, names in PARTS.items()}
    if not any(parts.values()):
        parts["train"] = found
    for part, paths in parts.items():
        if len(paths) > 1:
            raise UserError(f"--data coco:{root} has several .json for {part}, {paths[0]} and {paths[1]}: keep one; {LAYOUT}")
    if not parts["train"]:
        raise UserError(f"--data coco:{root} has no .json with boxes to train on; {LAYOUT}")
    return {part: paths[0] for part, paths in parts.items() if paths}


def _words(path: Path) -> set[str]:
    return set(re.findall("[a-z]+", path.as_posix().lower()))


def _categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    _check_once((each["id"] for each in content["categories"]), f"{path}: categories have the id")
    _check_once((each["name"] for each in content["categories"]), f"{path}: categories have the name")
    if not content["categories"]:
        raise UserError(f"{path} has no categories, which are the classes of its boxes")
    return {each["id"]: each["name"] for each in content["categories"]}


def _files(content: dict[str, Any], path: Path, root: Path, part: str, ids: list[int], with_masks: bool) -> list[BoxFile]:
    images = content["images"]
    if not images:
        raise UserError(f"{path} has no images")
    _check_once((each["id"] for each in images), f"{path}: images have the id")
    _check_once((each["file_name"] for each in images), f"{path}: images are")
    _check_once((each["id"] for each in content["annotations"]), f"{path}: annotations have the id")
    of_image: dict[int, list[dict[str, Any]]] = {each["id"]: [] for each in images}
    for each in content["annotations"]:
        if each["image_id"] not in of_image:
            raise UserError(f"{path}: annotation {each['id']} is of image {each['image_id']}, which there is not")
        if each["category_id"] not in ids:
            raise UserError(f"{path}: annotation {each['id']} is of category {each['category_id']}, which there is not")
        if len(each["bbox"]) != 4:
            raise UserError(f"{path}: annotation {each['id']} has a bbox that is not x, y, width, height: {each['bbox'][:5]}")
        of_image[each["image_id"]].append(each)
    found = _images([each["file_name"] for each in images], path, root, part)
    check_images(found)
    return [_file(place, each, of_image[each["id"]], path, ids, with_masks) for place, each in zip(found, images)]


def _file(
    place: Path, image: dict[str, Any], annotations: list[dict[str, Any]], path: Path, ids: list[int], with_masks: bool
) -> BoxFile:
    size = image_size(place)
    stated = image.get("width", size[0]), image.get("height", size[1])
    if stated != size:
        raise UserError(f"{path} says that {place} is {stated[0]} x {stated[1]}, it is {size[0]} x {size[1]}: boxes do not fit")
    boxes = torch.tensor([each["bbox"] for each in annotations], dtype=torch.float32).view(-1, 4)
    boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
    labels = torch.tensor([ids.index(each["category_id"]) for each in annotations], dtype=torch.long)
    crowd = torch.tensor([each.get("iscrowd", 0) == 1 for each in annotations], dtype=torch.bool)
    if not with_masks:
        return BoxFile(place, size, boxes, labels, crowd)
    masks = partial(_masks, place, [each["segmentation"] for each in annotations], size)
    return BoxFile(place, size, boxes, labels, crowd, masks)


def _masks(place: Path, segmentations: Sequence[Any], size: tuple[int, int]) -> Tensor:
    width, height = size
    try:
        return outlines(segmentations, height, width)
    except ValueError as error:
        raise UserError(f"the masks of {place} cannot be read: {error}") from None


def _images(names: list[str], path: Path, root: Path, part: str) -> list[Path]:
    """Return where images are: beside the .json, or in a folder of the part's name or of all images."""
    inside = [folder for top in (root / "images", root) if top.is_dir() for folder in sorted(top.iterdir()) if folder.is_dir()]
    own = [folder for folder in inside if _words(Path(folder.name)) & PARTS[part]]
    folders = [path.parent, *own, root / "images", root]
    found = []
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{path} has {name!r} as the name of an image, which has to be in its folder")
        place = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if place is None:
            raise UserError(f"{path} has an image {name}, which is in none of {', '.join(map(str, folders))}; {LAYOUT}")
        found.append(place)
    return found


def _check_once(values: Iterable[Any], what: str) -> None:
    """Raise `UserError` for a value that occurs twice."""
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise UserError(f"{what} {twice[0]} twice: each has to be there once")
