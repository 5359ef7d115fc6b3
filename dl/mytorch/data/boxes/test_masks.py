"""Folders of images and masks of their objects: an object for each value, a box around its pixels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.data.boxes import masks
from dl.mytorch.data.boxes.batches import mask_boxes
from dl.mytorch.data.boxes.files import BoxFile, BoxFolder
from dl.mytorch.data.boxes.masks import penn_fudan, read_masks
from dl.mytorch.data.boxes.sets import BoxConfig, box_set, box_splits


def save(root: Path, name: str, values: list[list[int]], folders: tuple[str, str] = ("images", "masks")) -> None:
    mask = np.array(values, dtype=np.uint8)
    image = np.full((*mask.shape, 3), 50, dtype=np.uint8)
    for folder, pixels, suffix in zip(folders, (image, mask), ("", "_mask")):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / folder / f"{name}{suffix}.png")


OBJECTS = [[0, 2, 0, 0], [5, 0, 255, 0], [5, 5, 0, 0]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(5):
        save(tmp_path / "set", str(i), OBJECTS)
    save(tmp_path / "set", "5", [[0, 0], [0, 0]])
    return tmp_path / "set"


def test_each_value_is_an_object_whose_box_is_not_empty_though_it_has_one_pixel(root: Path) -> None:
    """Inclusive ends, as of torchvision.ops.masks_to_boxes, would make a box of no area."""
    found = read_masks(root)
    assert found.classes == ("object",) and [len(file.labels) for file in found.parts["train"]] == [2] * 5 + [0]
    first = found.parts["train"][0]
    assert first.boxes.tolist() == [[1, 0, 2, 1], [0, 1, 2, 3]] and first.labels.tolist() == [0, 0]
    assert first.masks().int().tolist() == [[[0, 1, 0, 0], [0] * 4, [0] * 4], [[0] * 4, [1, 0, 0, 0], [1, 1, 0, 0]]]


def test_a_mask_of_0_and_255_is_one_object(tmp_path: Path) -> None:
    save(tmp_path, "1", [[0, 255], [255, 255]])
    (file,) = read_masks(tmp_path).parts["train"]
    assert file.boxes.tolist() == [[0, 0, 2, 2]] and int(file.masks().sum()) == 3


def test_batches_have_a_mask_for_each_box(root: Path) -> None:
    config = BoxConfig(out=str(root.parent / "run"), data=f"masks:{root}", batch_size=6, size=8)
    data = box_splits(config, stride=1)
    assert box_set(config).has_masks and box_set(config).classes == data.names == ("object",)
    assert sorted(name for part in data.split.values() for name in part) == [f"{i}.png" for i in range(6)]
    (batch,) = data.train.batches()
    held = batch["labels"] >= 0
    assert batch["masks"].shape[:2] == held.shape and batch["masks"].shape[2:] == batch["images"].shape[2:]
    assert (mask_boxes(batch["masks"])[held] - batch["boxes"][held]).abs().max() <= 1 and not batch["masks"][~held].any()


def test_a_mask_of_another_size_and_a_set_without_objects_are_refused(root: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(root / "masks" / "3_mask.png")
    with pytest.raises(UserError, match="3_mask.png is 4 x 5, its image 4 x 3"):
        read_masks(root)
    save(tmp_path / "other", "1", [[0, 0]])
    with pytest.raises(UserError, match="no training image has an object"):
        read_masks(tmp_path / "other")
    with pytest.raises(UserError, match="needs folders images and masks"):
        read_masks(tmp_path)


def test_penn_fudan_is_split_once_for_all_seeds_and_refused_when_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.zeros(2, dtype=torch.long)
    files = [BoxFile(Path(str(i)), (9, 9), torch.ones(2, 4), labels, labels.bool()) for i in range(170)]
    monkeypatch.setattr(sources, "get", lambda name, source: Path("penn_fudan"))
    monkeypatch.setattr(masks, "read_masks", lambda folder: BoxFolder(("object",), {"train": files}))
    with pytest.raises(UserError, match="has 170 images with 340 pedestrians, not 170 with 423"):
        penn_fudan()
    monkeypatch.setattr(masks, "PEDESTRIANS", 340)
    found = penn_fudan()
    assert {part: len(files) for part, files in found.parts.items()} == {"test": 50, "val": 15, "train": 105}
    assert len({file.image for files in found.parts.values() for file in files}) == 170 and found.classes == ("person",)


@pytest.mark.slow
@pytest.mark.skipif(sources.find(masks.PENN_FUDAN) is None, reason="Penn-Fudan is not on this machine")
def test_penn_fudan_has_423_boxes_of_which_none_is_empty() -> None:
    boxes = torch.cat([file.boxes for files in penn_fudan().parts.values() for file in files])
    assert len(boxes) == 423 and (boxes[:, :2] < boxes[:, 2:]).all()
