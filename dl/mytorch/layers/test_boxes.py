"""Boxes: overlaps by hand, and suppression beside the loop that it stands for."""

import pytest
import torch
from torch import Tensor

from dl.mytorch.layers import boxes as of_boxes
from dl.mytorch.layers.boxes import area, clip, generalized_iou, iou, nms, to_centres, to_corners


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def greedy(candidates: Tensor, scores: Tensor, threshold: float, labels: Tensor) -> list[int]:
    """The definition: take the surest, drop what it covers, and so on."""
    left, kept = scores.argsort(descending=True, stable=True).tolist(), []
    while left:
        kept.append(left.pop(0))
        left = [
            i
            for i in left
            if labels[i] != labels[kept[-1]] or not iou(candidates[kept[-1:]], candidates[[i]]).item() > threshold
        ]
    return kept


def test_overlaps_by_hand() -> None:
    first, second = boxes([0, 0, 2, 2], [0, 0, 1, 1]), boxes([1, 1, 3, 3], [3, 0, 4, 1])
    torch.testing.assert_close(iou(first, second), torch.tensor([[1 / 7, 0], [0, 0]], dtype=torch.float64))
    values = generalized_iou(first, second)
    assert values[0, 0].item() == pytest.approx(1 / 7 - 2 / 9)
    assert values[1, 1].item() == pytest.approx(-0.5)
    assert area(first).tolist() == [4, 1]


def test_corners_and_centres_are_inverse() -> None:
    box = boxes([2, 3, 14, 9])
    assert to_centres(box).tolist() == [[8, 6, 12, 6]]
    assert torch.equal(to_corners(to_centres(box)), box)


def test_clipping_keeps_boxes_inside_the_image() -> None:
    assert clip(boxes([-1, -2, 9, 9], [20, 20, 30, 30]), height=5, width=8).tolist() == [[0, 0, 8, 5], [8, 5, 8, 5]]


def test_suppression_is_greedy() -> None:
    row = boxes([0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10])
    assert nms(row, torch.tensor([0.9, 0.8, 0.7]), 0.7).tolist() == [0, 2]  # in one pass the second would drop the third


def test_a_box_that_overlaps_by_the_threshold_stays() -> None:
    pair = boxes([0, 0, 2, 1], [0, 0, 1, 1])
    assert nms(pair, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms(pair, torch.tensor([0.9, 0.8]), 0.49).tolist() == [0]


def test_the_first_of_equal_scores_wins_and_empty_boxes_stay() -> None:
    same = boxes([0, 0, 1, 1]).expand(3, 4)
    assert nms(same, torch.ones(3), 0.5).tolist() == [0]
    assert nms(boxes([1, 1, 1, 1], [1, 1, 1, 1]), torch.ones(2), 0.5).tolist() == [0, 1]
    assert nms(boxes([0, 0, 1, 1])[:0], torch.ones(0), 0.5).tolist() == []


@pytest.mark.parametrize("block", [1, 7, 512])
def test_suppression_is_the_loop_of_its_definition(block: int) -> None:
    draw = torch.Generator().manual_seed(block)
    for threshold in (0.0, 0.3, 0.6):
        corner = torch.randint(0, 12, (60, 2), generator=draw).double()
        candidates = torch.cat([corner, corner + torch.randint(0, 9, (60, 2), generator=draw)], dim=1)
        scores = torch.randint(0, 20, (60,), generator=draw) / 20  # with ties
        labels = torch.randint(0, 2, (60,), generator=draw)
        assert nms(candidates, scores, threshold, labels, block).tolist() == greedy(candidates, scores, threshold, labels)


def test_suppression_takes_no_round_for_each_box(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(of_boxes, "iou", lambda a, b: calls.append(1) or iou(a, b))
    for count in (200, 2000):
        corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(0)) * 100
        calls.clear()
        nms(torch.cat([corner, corner + 10], dim=1), torch.rand(count), 0.5)
        assert len(calls) == 2 * -(-count // 512)
