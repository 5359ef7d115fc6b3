"""Outlines as masks: polygons by the centres of pixels, runs as pycocotools packs them."""

from typing import Any

import numpy as np
import pytest

from dl.mytorch.data.boxes.batches import mask_boxes
from dl.mytorch.data.boxes.outlines import is_outline, outlines, polygon, unpacked


def test_a_polygon_covers_the_pixels_whose_centre_is_inside() -> None:
    square = polygon([2, 1, 5, 1, 5, 4, 2, 4], 6, 8)
    assert square.sum() == 9 and square[1:4, 2:5].all()
    assert polygon([2.4, 1, 5.6, 1, 5.6, 4, 2.4, 4], 6, 8).sum() == 12  # columns 2 to 5: centres from 2.5 to 5.5
    triangle = polygon([0, 0, 4, 0, 0, 4], 4, 4)
    assert triangle.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert polygon([-9, -9, 99, -9, 99, 99, -9, 99], 3, 4).all()
    hourglass = polygon([0, 0, 6, 4, 6, 0, 0, 4], 4, 6)  # which crosses itself in the middle
    outer, inner = [1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 1, 1]
    assert hourglass.astype(int).tolist() == [outer, inner, inner, outer]


def test_an_object_of_several_polygons_has_the_pixels_of_all() -> None:
    masks = outlines([[[0, 0, 1, 0, 1, 1, 0, 1], [3, 2, 5, 2, 5, 4, 3, 4]], [[1, 1, 2, 1, 2, 2, 1, 2]]], 4, 5)
    assert masks.sum((1, 2)).tolist() == [5, 1] and mask_boxes(masks).tolist() == [[0, 0, 5, 4], [1, 1, 2, 2]]
    assert outlines([], 4, 5).shape == (0, 4, 5)


def test_runs_go_down_the_columns_and_are_unpacked_as_pycocotools_packs_them() -> None:
    expected = np.zeros((9, 7), dtype=bool)
    expected[2:6, 1:4] = expected[0, 0] = expected[8, 5:] = True
    expected[4, 3] = False
    counts = [0, 1, 10, 4, 5, 4, 5, 2, 1, 1, 20, 1, 8, 1]
    packed = "01:3K00NLOc00D0"  # pycocotools.mask.encode(expected)
    assert unpacked(packed) == counts
    for value in (counts, packed):
        (mask,) = outlines([{"size": [9, 7], "counts": value}], 9, 7).numpy()
        assert (mask == expected).all()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"size": [3, 4], "counts": [20]}, "has the size"),
        ({"size": [4, 5], "counts": [21]}, "runs of 21 pixels do not fill an image of 20"),
        ({"size": [4, 5], "counts": [-1, 21]}, "integers"),
        ({"size": [4, 5], "counts": [20.0]}, "integers"),
        ({"size": [4, 5]}, "integers"),
        ({"size": [4, 5], "counts": "o" * 99}, "damaged"),
        ({"size": [4, 5], "counts": "\x00"}, "damaged"),
        ([[0, 0, 1, 1]], "three corners"),
        ([[0, 0, 1, 1, 2]], "three corners"),
        ([["a", "b"] * 3], "polygon|could not convert"),
        ([[[0, 0], [1, 1], [2, 2]]], "three corners"),
        ([[None] * 6], "polygon"),
        ("outline", "list of polygons"),
    ],
)
def test_what_is_no_outline_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outlines([value], 4, 5)


def test_an_outline_is_runs_or_polygons() -> None:
    assert is_outline({"counts": []}) and is_outline([[1, 2]])
    assert not any(is_outline(value) for value in (None, [], {}, [1, 2], "a"))
