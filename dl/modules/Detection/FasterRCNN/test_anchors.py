"""Anchors, their coder and who finds what, by hand; and that no loop counts boxes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dl.modules.Detection.FasterRCNN.anchors import cell_anchors, decode, encode, grid_anchors, match, overlap_match, sample


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_anchors_by_hand() -> None:
    assert cell_anchors(8, (0.5, 1, 2)).tolist() == [[-6, -3, 6, 3], [-4, -4, 4, 4], [-3, -6, 3, 6]]
    assert cell_anchors(5, (1,)).tolist() == [[-2, -2, 2, 2]]  # 2.5 to even


def test_anchors_stand_on_corners_of_cells_row_after_row() -> None:
    anchors = grid_anchors(cell_anchors(8, (1, 2)), 2, 3, 4)
    assert anchors.shape == (12, 4)
    assert anchors[0].tolist() == [-4, -4, 4, 4] and anchors[1].tolist() == [-3, -6, 3, 6]
    assert anchors[2].tolist() == [0, -4, 8, 4] and anchors[6].tolist() == [-4, 0, 4, 8]


def test_the_stride_of_anchors_is_the_network_s_whatever_the_size_of_the_image() -> None:
    """33 pixels are 9 places of stride 4, of which 33 // 9 would make 3: https://github.com/luxonis/luxonis-train/issues/184."""
    assert grid_anchors(cell_anchors(8, (1,)), 1, 9, 4)[-1].tolist() == [28, -4, 36, 4]


def test_the_coder_by_hand() -> None:
    anchor, box = boxes([0, 0, 10, 10]), boxes([2, 3, 14, 9])
    torch.testing.assert_close(encode(box, anchor), boxes([0.3, 0.1, math.log(1.2), math.log(0.6)]))
    torch.testing.assert_close(encode(box, anchor, (10, 10, 5, 5)), boxes([3, 1, 0.9116077840, -2.5541281188]))
    torch.testing.assert_close(decode(encode(box, anchor, (10, 10, 5, 5)), anchor, (10, 10, 5, 5)), box)
    side = 10 * 1000 / 16  # the largest step is log(1000 / 16) = 4.1351666
    torch.testing.assert_close(decode(boxes([0, 0, 5, 0]), anchor), boxes([5 - side / 2, 0, 5 + side / 2, 10]))


def test_matching_by_hand() -> None:
    quality = boxes([0.5898, 0.4675, 0.0536, 0.2099], [0.4566, 0.2781, 0.0106, 0.4372], [0.5378, 0.8868, 0.2474, 0.1279])
    assert match(quality, 0.5, 0.4, low_quality=True).tolist() == [0, 2, -1, -2]


def test_an_anchor_of_low_quality_finds_the_object_that_it_overlaps_most() -> None:
    """https://github.com/facebookresearch/detectron2/issues/1162: another label with the same box."""
    quality = boxes([0.6, 0], [0.65, 0.2])
    assert match(quality, 0.7, 0.3, low_quality=True).tolist() == [1, -1]
    assert match(quality, 0.7, 0.3).tolist() == [-2, -1]


def test_an_object_that_no_anchor_touches_makes_no_anchor_positive() -> None:
    assert match(boxes([0, 0], [0.8, 0]), 0.7, 0.3, low_quality=True).tolist() == [1, -1]


def test_without_objects_all_is_background() -> None:
    assert overlap_match(boxes([0, 0, 1, 1])[:0], boxes([0, 0, 1, 1], [0, 0, 2, 2]), 0.5, 0.5).tolist() == [-1, -1]


def test_samples_have_at_most_the_fraction_of_objects_and_no_more_than_there_are() -> None:
    matched = torch.tensor([0] * 10 + [-1] * 20 + [-2] * 5 + [3] * 10)
    found, background = sample(matched, 16, 0.25)
    assert len(found) == 4 and len(background) == 12
    assert (matched[found] >= 0).all() and (matched[background] == -1).all()
    assert len({*found.tolist(), *background.tolist()}) == 16
    found, background = sample(matched, 10**6, 0.5)
    assert len(found) == len(background) == 20


class Calls(TorchDispatchMode):
    """Counts what torch is asked for."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("objects", [2, 40])
def test_matching_asks_torch_as_often_for_2000_boxes_as_for_200(objects: int) -> None:
    counts = []
    for anchors in (200, 2000):
        corner = torch.rand(anchors, 2) * 100
        candidates = torch.cat([corner, corner + 20], dim=1)
        with Calls() as calls:
            matched = overlap_match(candidates[:objects], candidates, 0.7, 0.3, low_quality=True)
            found, _ = sample(matched, 256, 0.5)
            encode(candidates[matched[found]], candidates[found])
        counts.append(calls.count)
    assert counts[0] == counts[1]
