"""COCO's format: where files are looked for, what ids have to be, what is refused."""

import json
from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
from PIL import Image

from dl.mytorch.config import UserError
from dl.mytorch.data.boxes.coco import read_coco
from dl.mytorch.data.boxes.sets import BoxConfig, box_set, box_splits

Content = dict[str, list[dict[str, Any]]]


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((10, 20, 3), 100, np.uint8)).save(path)


def content(count: int = 3) -> Content:
    """Images of which the first has two boxes, the last none; category 5 comes first in the file, 3 by its id."""
    square = [[2, 1, 6, 1, 6, 4, 2, 4]]
    return {
        "images": [{"id": 10 + i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in range(count)],
        "categories": [{"id": 5, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 4, "name": "cow"}],
        "annotations": [
            {"id": 0, "image_id": 10, "category_id": 3, "bbox": [2, 1, 4, 3], "segmentation": square, "iscrowd": 0},
            {"id": 1, "image_id": 10, "category_id": 5, "bbox": [0, 0, 20, 10], "segmentation": square, "iscrowd": 1},
            {"id": 2, "image_id": 11, "category_id": 5, "bbox": [1.5, 2, 3, 4], "segmentation": square},
        ],
    }


def write(path: Path, value: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    write(root / "instances.json", content())
    for i in range(3):
        image(root / "images" / f"{i}.png")
    return root


def test_boxes_are_read_from_zero_and_classes_by_the_order_of_ids(root: Path) -> None:
    found = read_coco(root)
    assert found.classes == ("cat", "cow", "dog") and found.notes == () and list(found.parts) == ["train"]
    first, second, third = found.parts["train"]
    assert first.boxes.tolist() == [[2, 1, 6, 4], [0, 0, 20, 10]] and first.labels.tolist() == [0, 2]
    assert first.crowd.tolist() == [False, True] and second.boxes.tolist() == [[1.5, 2, 4.5, 6]]
    assert third.boxes.shape == (0, 4) and third.masks().shape == (0, 10, 20)
    assert first.masks()[0].nonzero().aminmax(dim=0).max.tolist() == [3, 5]


def test_annotation_0_counts_and_crowds_are_not_trained_on(root: Path) -> None:
    write(root / "instances_train.json", content())
    (root / "instances.json").rename(root / "instances_val.json")
    config = BoxConfig(out=str(root.parent / "run"), data=f"coco:{root}", batch_size=4, hflip=False)
    data, about = box_splits(config), box_set(config)
    assert about.classes == data.names == ("cat", "cow", "dog") and about.has_masks
    (val,) = data.val.batches()
    assert sorted(val["labels"].tolist()) == [[-1, -1], [0, 2], [2, -1]] and int(val["crowd"].sum()) == 1
    for batch in data.train.batches():
        assert "crowd" not in batch and batch["labels"].shape[1] == 1 and batch["masks"].shape[1] == 1


@pytest.mark.parametrize(
    ("train", "val", "folder"),
    [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "{part}2017"),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", "images/{part}2017"),
        ("annotations/train.json", "annotations/val.json", "images"),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", "{part}"),
    ],
)
def test_files_are_found_in_the_usual_places(tmp_path: Path, train: str, val: str, folder: str) -> None:
    for part, path in (("train", train), ("valid" if "valid" in val else "val", val)):
        write(tmp_path / path, content(2))
        for i in range(2):
            image(tmp_path / folder.format(part=part) / f"{i}.png")
    write(tmp_path / "annotations" / "captions_train2017.json", {})
    found = read_coco(tmp_path)
    assert {part: len(files) for part, files in found.parts.items()} == {"train": 2, "val": 2}
    assert found.parts["train"][0].image.parent == tmp_path / folder.format(part="train")


def test_gaps_between_ids_of_categories_are_closed_with_a_line(root: Path) -> None:
    value = content()
    value["categories"][2]["id"] = 90
    write(root / "instances.json", value)
    found = read_coco(root)
    assert found.classes == ("cat", "dog", "cow") and found.parts["train"][0].labels.tolist() == [0, 1]
    assert found.notes == ("ids of categories from 3 to 90 have gaps: 3 classes are numbered in their order",)


def test_without_all_outlines_there_are_no_masks_and_a_line_says_so(root: Path) -> None:
    value = content()
    value["annotations"][1]["segmentation"] = []
    write(root / "instances.json", value)
    found = read_coco(root)
    assert found.parts["train"][0].masks is None
    assert found.notes == ("1 of 3 boxes have no outline: masks are not used",)


def test_boxes_without_area_or_outside_are_dropped_with_their_masks(root: Path) -> None:
    value = content()
    value["annotations"][0]["bbox"] = [5, 5, 0, 3]
    value["annotations"][1]["bbox"] = [15, -2, 10, 6]
    value["annotations"][2]["bbox"] = [30, 2, 10, 6]
    write(root / "instances.json", value)
    found = read_coco(root)
    first, second, _ = found.parts["train"]
    assert first.boxes.tolist() == [[15, 0, 20, 4]] and first.masks().shape == (1, 10, 20) and len(second.labels) == 0
    assert [note[:9] for note in found.notes] == ["1 boxes r", "2 boxes a"]


def changed(key: str, place: int, **fields: Any) -> Callable[[Content], object]:
    return lambda value: value[key][place].update(fields)


BAD = {
    "two images of one id": (changed("images", 1, id=10), "images have the id 10 twice"),
    "an image twice": (changed("images", 1, file_name="0.png"), "images are 0.png twice"),
    "two annotations of one id": (changed("annotations", 1, id=0), "annotations have the id 0 twice"),
    "two categories of one id": (changed("categories", 1, id=5), "categories have the id 5 twice"),
    "two categories of one name": (changed("categories", 1, name="dog"), "categories have the name dog twice"),
    "an unknown class": (changed("annotations", 1, category_id=6), "annotation 1 is of category 6, which there is not"),
    "an unknown image": (changed("annotations", 1, image_id=6), "annotation 1 is of image 6, which there is not"),
    "three numbers": (changed("annotations", 1, bbox=[1, 2, 3]), "annotation 1 has a bbox that is not x, y, width, height"),
    "no number": (changed("annotations", 1, bbox=[1, 2, 3, "4"]), "bbox"),
    "another size": (changed("images", 1, width=40), "is 40 x 10, it is 20 x 10"),
    "a missing image": (changed("images", 1, file_name="9.png"), "an image 9.png, which is in none of"),
    "an image elsewhere": (changed("images", 1, file_name="../a.png"), "has to be in its folder"),
    "no categories": (lambda value: value["categories"].clear(), "has no categories"),
    "no images": (lambda value: value["images"].clear(), "has no images"),
    "no boxes": (lambda value: value["annotations"].clear(), "no training image has a box"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_json_that_does_not_fit_is_refused_with_one_line(
    root: Path, change: Callable[[Content], object], message: str
) -> None:
    value = content()
    change(value)
    write(root / "instances.json", value)
    with pytest.raises(UserError, match=message) as error:
        read_coco(root)
    assert "instances.json" in str(error.value) and "\n" not in str(error.value)


def test_a_mask_of_another_size_is_refused_when_it_is_read(root: Path) -> None:
    value = content()
    value["annotations"][0]["segmentation"] = {"size": [20, 10], "counts": [200]}
    write(root / "instances.json", value)
    with pytest.raises(UserError, match="the masks of .*0.png cannot be read: a mask has the size"):
        read_coco(root).parts["train"][0].masks()


def test_parts_have_the_same_categories_and_there_is_one_json_for_each(root: Path) -> None:
    value = content()
    value["categories"][0]["name"] = "wolf"
    write(root / "train.json", content())
    write(root / "val.json", value)
    with pytest.raises(UserError, match="val.json has other categories than .*train.json"):
        read_coco(root)
    write(root / "annotations" / "train.json", value)
    with pytest.raises(UserError, match="several .json for train"):
        read_coco(root)
    with pytest.raises(UserError, match="no .json with boxes"):
        read_coco(root / "images")
    with pytest.raises(UserError, match="there is no such folder"):
        read_coco(root / "nowhere")
