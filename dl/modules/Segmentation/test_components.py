"""Connected components and distances to the two nearest ones."""

import pytest
import torch
from torch import Tensor

from dl.modules.Segmentation.components import components, two_nearest


def plane(text: str) -> Tensor:
    return torch.tensor([[int(value) for value in row] for row in text.split()])


def test_components_share_edges_and_are_counted_row_by_row() -> None:
    found = components(plane("11010 10010 01011 00000 10001") > 0)
    assert found.tolist() == plane("11020 10020 03022 00000 40005").tolist()
    assert components(plane("000 000") > 0).max() == 0 and components(plane("1") > 0).tolist() == [[1]]


def test_a_spiral_is_one_component() -> None:
    spiral = plane("1111111 0000001 1111101 1000101 1011101 1000001 1111111") > 0
    assert components(spiral).unique().tolist() == [0, 1]
    assert components(~spiral).max() == 1


@pytest.mark.parametrize("shape", [(40, 60), (7, 90), (1, 12)])
def test_components_are_those_of_a_flood(shape: tuple[int, int]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    expected, count = torch.zeros(shape, dtype=torch.int64), 0
    for start in mask.nonzero().tolist():
        if expected[tuple(start)]:
            continue
        count, waiting = count + 1, [start]
        while waiting:
            y, x = waiting.pop()
            if 0 <= y < shape[0] and 0 <= x < shape[1] and mask[y, x] and not expected[y, x]:
                expected[y, x] = count
                waiting += [[y + 1, x], [y - 1, x], [y, x + 1], [y, x - 1]]
    assert torch.equal(components(mask), expected)


def test_distances_are_to_different_components() -> None:
    one, other = two_nearest(plane("1100002"), reach=9)
    assert one[0].tolist() == [0, 0, 1, 2, 2, 1, 0] and other[0].tolist() == [6, 5, 4, 3, 3, 4, 5]
    one, other = two_nearest(plane("3000 0000 0000 0003"), reach=9)
    assert one[0, 3] == 3 and other.isinf().all()
    one, other = two_nearest(plane("3000 0000 0000 0004"), reach=9)
    assert one[0, 3] == other[0, 3] == 3 and one[1, 1] == pytest.approx(2**0.5) and other[1, 1] == pytest.approx(8**0.5)


def test_what_is_out_of_reach_is_infinitely_far() -> None:
    one, other = two_nearest(plane("1000002"), reach=3)
    assert one[0].tolist() == [0, 1, 2, 3, 2, 1, 0] and other[0].tolist()[:3] == [torch.inf] * 3 and other[0, 3] == 3
