"""RoIAlign: numbers by hand, the definition as loops, gradients."""

import math

import pytest
import torch
from torch import Tensor

from dl.mytorch.layers.roi_align import crop, roi_align

RAMP = torch.arange(8.0, dtype=torch.float64).expand(1, 1, 8, 8)  # pixel (y, x) is x


def rois(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def by_definition(maps: Tensor, roi: list[float], size: tuple[int, int], scale: float, samples: int, aligned: bool) -> Tensor:
    """One box, point after point."""
    height, width = maps.shape[-2:]
    x0, y0, x1, y1 = (side * scale - 0.5 * aligned for side in roi[1:])
    sides = (y1 - y0, x1 - x0) if aligned else (max(y1 - y0, 1), max(x1 - x0, 1))
    steps = [side / bins for side, bins in zip(sides, size)]
    counts = [samples or math.ceil(step) for step in steps]

    def at(y: float, x: float) -> Tensor:
        if not (-1 <= y <= height and -1 <= x <= width):
            return maps.new_zeros(maps.shape[1])
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        value = maps.new_zeros(maps.shape[1])
        for row in {math.floor(y), math.ceil(y)}:
            for column in {math.floor(x), math.ceil(x)}:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * maps[int(roi[0]), :, row, column]
        return value

    pooled = maps.new_zeros(maps.shape[1], *size)
    for i in range(size[0]):
        for j in range(size[1]):
            for p in range(counts[0]):
                for q in range(counts[1]):
                    y = y0 + steps[0] * (i + (p + 0.5) / counts[0])
                    x = x0 + steps[1] * (j + (q + 0.5) / counts[1])
                    pooled[:, i, j] += at(y, x) / (counts[0] * counts[1])
    return pooled


def test_a_ramp_keeps_its_values_at_the_centres_of_the_bins() -> None:
    """Half a pixel: https://github.com/pytorch/vision/issues/1871, https://github.com/onnx/onnx/issues/3428."""
    box = rois([0, 1, 1, 5, 5])
    assert roi_align(RAMP, box, (2, 2))[0, 0].tolist() == [[2, 4], [2, 4]]
    assert roi_align(RAMP, box, (2, 2), aligned=True)[0, 0].tolist() == [[1.5, 3.5], [1.5, 3.5]]
    assert roi_align(RAMP, box * 4, (2, 2), scale=0.25)[0, 0].tolist() == [[2, 4], [2, 4]]


def test_only_unaligned_boxes_have_at_least_one_pixel() -> None:
    """https://github.com/pytorch/vision/issues/2438."""
    point = rois([0, 2, 2, 2, 2])
    assert roi_align(RAMP, point, (1, 2))[0, 0].tolist() == [[2.25, 2.75]]
    assert roi_align(RAMP, point, (1, 2), aligned=True)[0, 0].tolist() == [[1.5, 1.5]]


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """Return maps, and boxes of which some leave the map, some are smaller than a pixel."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=generator)
    corner = torch.rand(5, 2, dtype=torch.float64, generator=generator) * 12 - 3
    sides = torch.rand(5, 2, dtype=torch.float64, generator=generator) ** 2 * 10
    number = torch.randint(2, (5, 1), generator=generator)
    return maps, torch.cat([number, corner, corner + sides], dim=1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [2, 0])
def test_boxes_anywhere_are_pooled_as_defined(samples: int, aligned: bool) -> None:
    maps, boxes = random_case(samples)
    pooled = roi_align(maps, boxes, (2, 3), 0.9, samples, aligned)
    expected = [by_definition(maps, box, (2, 3), 0.9, samples, aligned) for box in boxes.tolist()]
    torch.testing.assert_close(pooled, torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("aligned", [False, True])
def test_gradients_are_those_of_finite_differences(aligned: bool) -> None:
    maps, boxes = random_case(2)
    maps = maps[:, :1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes[:3], (2, 2), 0.9, 0, aligned), maps)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes[:3], (2, 2), 0.9, 2, aligned), maps)


def test_no_boxes_give_no_maps_and_no_gradient() -> None:
    maps = RAMP.clone().requires_grad_()
    pooled = roi_align(maps, rois([0, 0, 0, 1, 1])[:0], (2, 2))
    assert pooled.shape == (0, 1, 2, 2)
    pooled.sum().backward()
    assert not maps.grad.any()
    assert crop(RAMP[0][:0], rois([0, 0, 1, 1])[:0], (2, 2)).shape == (0, 2, 2)


def test_maps_in_half_precision_are_pooled_in_that_of_the_boxes() -> None:
    pooled = roi_align(RAMP.bfloat16(), rois([0, 1, 1, 5, 5]).float(), (2, 2))
    assert pooled.dtype == torch.bfloat16 and pooled[0, 0].tolist() == [[2, 4], [2, 4]]


def test_one_map_for_each_box_is_cut_out_as_pooling_does() -> None:
    maps, boxes = random_case(3)
    masks = maps.flatten(0, 1)[:5]
    numbered = torch.cat([torch.arange(5.0)[:, None], boxes[:, 1:]], dim=1)
    pooled = roi_align(masks[:, None], numbered, (3, 2), samples=0)[:, 0]
    torch.testing.assert_close(crop(masks, boxes[:, 1:], (3, 2)), pooled, rtol=0, atol=1e-12)
