"""Folders as of Pascal VOC: how pixels are counted, what is refused or fixed, with one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dl.mytorch.config import UserError
from dl.mytorch.data.boxes.sets import BoxConfig, box_set, box_splits
from dl.mytorch.data.boxes.voc import read_annotation, read_voc

Object = tuple[str, float, float, float, float]


def xml(objects: list[Object], size: tuple[int, int] = (20, 10), extra: str = "") -> str:
    sides = "<size><width>{}</width><height>{}</height></size>".format(*size)
    corners = "<bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
    boxes = (f"<object><name>{name}</name>{extra}{corners.format(*sides)}</object>" for name, *sides in objects)
    return f'<?xml version="1.0" encoding="utf-8"?><annotation>{sides}{"".join(boxes)}</annotation>'


def save(root: Path, name: str, text: str, size: tuple[int, int] = (20, 10)) -> None:
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size[::-1], 3), 100, np.uint8)).save(root / "JPEGImages" / f"{name}.png")
    (root / "Annotations" / f"{name}.xml").write_text(text, encoding="utf-8")


def lists(root: Path, **parts: str) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in parts.items():
        (folder / f"{part}.txt").write_text(names, encoding="utf-8")


def config(root: Path, **flags: Any) -> BoxConfig:
    return BoxConfig(out=str(root.parent / "run"), data=f"voc:{root}", batch_size=2, **flags)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images, of which the last has no box."""
    root = tmp_path / "set"
    save(root, "1", xml([("dog", 1, 1, 20, 10), ("cat", 2, 3, 4, 5)]))
    save(root, "2", xml([("dog", 5, 5, 9.5, 9)]))
    save(root, "3", xml([]))
    return root


def test_pixels_are_counted_from_one_and_the_last_belongs_to_the_box(root: Path) -> None:
    found = read_voc(root)
    assert found.classes == ("cat", "dog") and found.notes == () and list(found.parts) == ["train"]
    first, second, third = found.parts["train"]
    assert first.boxes.tolist() == [[0, 0, 20, 10], [1, 2, 4, 5]] and first.labels.tolist() == [1, 0]
    assert second.boxes.tolist() == [[4, 4, 9.5, 9]] and not first.crowd.any()
    assert third.boxes.shape == (0, 4) and third.labels.shape == (0,)


def test_a_set_with_a_box_that_begins_at_zero_is_read_from_zero_with_a_line(root: Path) -> None:
    save(root, "2", xml([("dog", 0, 5, 9, 9)]))
    found = read_voc(root)
    assert found.parts["train"][0].boxes[1].tolist() == [2, 3, 4, 5] and found.parts["train"][1].boxes.tolist() == [
        [0, 5, 9, 9]
    ]
    assert found.notes == ("boxes of 1 images begin at 0 (first: 2): all are read as counted from zero",)


def test_boxes_outside_are_cut_or_dropped_and_empty_ones_dropped_with_a_line(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(root, "1", xml([("dog", -3, 2, 25, 8), ("dog", 21, 2, 30, 8), ("cat", 7, 3, 7, 9), ("cat", 9, 3, 8, 9)]))
    (first, *_) = read_voc(root).parts["train"]
    assert first.boxes.tolist() == [[0, 1, 20, 8]] and first.labels.tolist() == [1]
    box_splits(config(root))
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2 and "1 boxes reach out of their image" in out[0] and "3 boxes are empty or outside" in out[1]
    assert all("1.png" in line for line in out)


def test_difficult_boxes_are_crowds_which_are_not_trained_on(root: Path) -> None:
    hard = xml([("dog", 1, 1, 5, 5)], extra="<difficult>1</difficult>")
    for name in ("2", "3", "4"):
        save(root, name, hard)
    lists(root, train="1\n2\n", val="3\n", test="4\n")
    data = box_splits(config(root))
    (train,) = data.train.batches()
    assert sorted(train["labels"].tolist()) == [[-1, -1], [1, 0]] and "crowd" not in train
    (val,) = data.val.batches()
    assert val["labels"].tolist() == [[1]] and val["crowd"].tolist() == [[True]]


def test_parts_are_those_of_the_lists_and_a_missing_one_is_drawn(root: Path) -> None:
    for name in "456":
        save(root, name, xml([("dog", 1, 1, 5, 5)]))
    lists(root, train="1\n2 1\n4\n", val="3\n5\n")
    data = box_splits(config(root))
    assert data.names == ("cat", "dog") and data.split["val"] == ["3.png", "5.png"]
    assert sorted(data.split["train"] + data.split["test"]) == ["1.png", "2.png", "4.png"] and len(data.split["test"]) == 1
    assert box_set(config(root)).classes == ("cat", "dog") and not box_set(config(root)).has_masks
    inside = root.parent / "packed"
    root.rename(inside / root.name if inside.mkdir() is None else root)
    assert read_voc(inside).classes == ("cat", "dog")


def test_images_and_boxes_are_brought_to_a_size(root: Path) -> None:
    lists(root, train="1\n2\n", val="3\n", test="3a")
    save(root, "3a", xml([("dog", 1, 1, 10, 20)], size=(10, 30)), size=(10, 30))
    data = box_splits(config(root, size=15, max_size=24, hflip=False), stride=8)
    batch = next(data.train.batches())
    at = batch["labels"].tolist().index([1, 0])
    assert batch["images"].shape == (2, 3, 16, 24) and batch["sizes"].tolist() == [[12, 24]] * 2
    assert batch["boxes"][at].flatten().tolist() == pytest.approx([0, 0, 24, 12, 1.2, 2.4, 4.8, 6])
    (test,) = data.test.batches()
    assert test["sizes"].tolist() == [[24, 8]] and test["boxes"][0, 0].tolist() == pytest.approx([0, 0, 8, 16])


BAD = {
    "a DTD": (xml([]).replace("<annotation>", "<!DOCTYPE a><annotation>"), "has a DTD"),
    "entities": (xml([]).replace("<annotation>", '<!doctype a [<!ENTITY b "c">]><annotation>'), "has a DTD"),
    "no XML": ("<annotation>", "is no XML"),
    "another size": (xml([], size=(40, 20)), "is of an image of 40 x 20, the image 20 x 10"),
    "no name": (xml([("", 1, 1, 2, 2)]), "object 1 has no name"),
    "no number": (xml([("dog", 1, "one", 2, 2)]), "object 1 has 'one' as its bndbox/ymin"),
    "not finite": (xml([("dog", 1, 1, 2, float("inf"))]), "object 1 has 'inf' as its bndbox/ymax"),
    "a side missing": (xml([("dog", 1, 1, 2, 2)]).replace("<xmax>2</xmax>", ""), "object 1 has '' as its bndbox/xmax"),
    "too large": ("<annotation>" + " " * 2**22, "too large"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_an_annotation_that_is_not_as_it_should_be_is_refused_with_one_line(root: Path, text: str, message: str) -> None:
    save(root, "2", text)
    with pytest.raises(UserError, match=message) as error:
        read_voc(root)
    assert "2.xml" in str(error.value) and "\n" not in str(error.value)


def test_a_dtd_hidden_by_another_encoding_is_refused(root: Path) -> None:
    path = root / "Annotations" / "2.xml"
    path.write_bytes('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><annotation/>'.encode("utf-16"))
    with pytest.raises(UserError, match="not text in UTF-8"):
        read_annotation(path)


def test_sizes_of_zero_state_nothing(root: Path) -> None:
    save(root, "2", xml([("dog", 1, 1, 2, 2)], size=(0, 0)))
    assert len(read_voc(root).parts["train"]) == 3


def test_a_class_that_training_lacks_is_refused(root: Path) -> None:
    lists(root, train="2\n3\n", test="1\n")
    with pytest.raises(UserError, match="1.xml has a cat, which no training image has"):
        read_voc(root)


def test_lists_and_folders_that_do_not_fit_are_refused(root: Path) -> None:
    lists(root, train="1\n2\n", val="2\n")
    with pytest.raises(UserError, match="names 2 twice"):
        read_voc(root)
    lists(root, val="9\n")
    with pytest.raises(UserError, match="lacks 1 images that ImageSets names, 9 first"):
        read_voc(root)
    lists(root, train="", val="3\n")
    with pytest.raises(UserError, match="no train.txt"):
        read_voc(root)
    lists(root, val="")
    (root / "Annotations" / "3.xml").unlink()
    with pytest.raises(UserError, match="1 images have no .xml"):
        read_voc(root)
    with pytest.raises(UserError, match="there is no such folder"):
        read_voc(root / "nowhere")
    with pytest.raises(UserError, match="holds no folders with Annotations"):
        read_voc(root / "JPEGImages")


def test_an_image_that_is_turned_when_it_is_opened_is_refused(root: Path) -> None:
    image = Image.open(root / "JPEGImages" / "1.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(root / "JPEGImages" / "1.png", exif=exif)
    lists(root, train="1\n", val="2\n", test="3\n")
    with pytest.raises(UserError, match="1.png is turned by its EXIF data"):
        next(box_splits(config(root)).train.batches())
