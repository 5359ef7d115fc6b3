"""Scenes are a function of their number, and their boxes are those of what is visible."""

import pytest
import torch
from torch import Tensor

from dl.mytorch.data.boxes import scenes
from dl.mytorch.data.boxes.batches import mask_boxes
from dl.mytorch.data.boxes.scenes import CLASSES, KIND, Scenes, scene
from dl.mytorch.data.images.idx import CLOTHES


def squares(*grey: float) -> list[Tensor]:
    """One item for a class: a square of 20 x 20 in 28 x 28."""
    items = torch.zeros(len(grey), 1, 28, 28)
    items[:, :, 4:24, 4:24] = torch.tensor(grey)[:, None, None, None]
    return list(items)


@pytest.fixture(scope="module")
def drawn() -> list[dict[str, Tensor]]:
    return [scene(squares(0.5, 1.0), torch.Generator().manual_seed(i)) for i in range(60)]


def test_a_scene_has_the_boxes_of_what_is_visible_and_some_scenes_are_empty(drawn: list[dict[str, Tensor]]) -> None:
    counts = [len(example["labels"]) for example in drawn]
    assert min(counts) == 0 and max(counts) > 3 and len({example["images"].shape for example in drawn}) > 50
    for example in drawn:
        assert example["images"].dtype == torch.uint8 and example["masks"].shape[1:] == example["images"].shape[1:]
        assert torch.equal(example["boxes"], mask_boxes(example["masks"]))
        assert (example["masks"].sum(0) <= 1).all()  # of two items that overlap, one is visible
        assert (example["boxes"][:, :2] < example["boxes"][:, 2:]).all()
        assert (example["boxes"][:, 2:] <= torch.tensor(example["images"].shape[:0:-1])).all()


def test_an_item_of_which_less_than_a_quarter_is_visible_does_not_count(
    drawn: list[dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = sum(len(example["labels"]) for example in drawn)
    monkeypatch.setattr(scenes, "VISIBLE", 0.0)
    every = [scene(squares(0.5, 1.0), torch.Generator().manual_seed(i)) for i in range(60)]
    assert sum(len(example["labels"]) for example in every) > kept
    assert min(int(mask.sum()) for example in drawn for mask in example["masks"]) >= 20 * 20 / 4 * 0.9


def test_a_scene_is_a_function_of_its_number() -> None:
    clothes, labels = torch.full((10, 28, 28), 200, dtype=torch.uint8), torch.arange(10)
    first, later = Scenes(clothes, labels, 100, 5), Scenes(clothes, labels, 102, 5)
    assert len(first) == 5
    assert all(torch.equal(value, later[0][name]) for name, value in first[2].items())
    assert first[1]["images"].shape != first[2]["images"].shape or not torch.equal(first[1]["images"], first[2]["images"])


def test_the_ten_kinds_of_clothes_are_five_classes() -> None:
    assert {CLOTHES[i]: CLASSES[kind] for i, kind in enumerate(KIND) if kind in (0, 3)} == {
        **dict.fromkeys(("T-shirt", "pullover", "coat", "shirt"), "top"),
        **dict.fromkeys(("sandal", "sneaker", "ankle boot"), "shoe"),
    }
