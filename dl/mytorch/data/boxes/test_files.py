"""What all readers share: sizes, masks that follow them, parts that are drawn."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dl.mytorch.data.boxes.batches import mask_boxes
from dl.mytorch.data.boxes.files import BoxFile, cleaned, new_size, resized
from dl.mytorch.data.boxes.testing import rectangles


@pytest.mark.parametrize(
    ("old", "size", "max_size", "new"),
    [
        ((480, 640), 240, 0, (240, 320)),
        ((640, 480), 240, 300, (300, 225)),
        ((480, 640), 0, 0, (480, 640)),
        ((480, 640), 0, 320, (240, 320)),
        ((30, 40), 0, 320, (30, 40)),
        ((1000, 3), 0, 100, (100, 1)),
    ],
)
def test_the_shorter_side_is_brought_to_a_size_and_the_longer_one_limited(
    old: tuple[int, int], size: int, max_size: int, new: tuple[int, int]
) -> None:
    assert new_size(*old, size, max_size) == new


def test_boxes_and_masks_follow_the_image_to_another_size() -> None:
    example = rectangles(10, 20, [[2, 4, 10, 8], [0, 0, 20, 10]], [0, 1])
    half = resized(example, 5, 10)
    assert half["images"].shape == (3, 5, 10) and torch.equal(half["boxes"], example["boxes"] / 2)
    assert torch.equal(mask_boxes(half["masks"]), half["boxes"])
    assert resized(example, 10, 20) is example
    none = resized(rectangles(10, 20, [], []), 5, 10)
    assert none["masks"].shape == (0, 5, 10) and none["boxes"].shape == (0, 4)


def three(count: int) -> Tensor:
    return torch.arange(count)[:, None, None] == torch.arange(3).expand(1, 1, 3)


def test_masks_are_dropped_with_their_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 0, 9, 1], [2, 0, 3, 1]])
    file = BoxFile(Path("a.png"), (3, 1), boxes, torch.tensor([7, 8, 9]), torch.zeros(3, dtype=torch.bool), partial(three, 3))
    parts, notes = cleaned({"train": [file]})
    (clean,) = parts["train"]
    assert clean.labels.tolist() == [7, 9] and clean.masks().int().tolist() == [[[1, 0, 0]], [[0, 0, 1]]]
    assert notes == ("1 boxes are empty or outside of their image, dropped (first: a.png)",)
    again = clean.chosen(torch.tensor([False, True]))
    assert again.masks().int().tolist() == [[[0, 0, 1]]] and again.boxes.tolist() == [[2, 0, 3, 1]]
