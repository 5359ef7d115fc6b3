"""Which map a box is read from, and masks in their boxes."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from dl.modules.Detection.FasterRCNN.regions import levels, paste, pool


def squares(*sides: float) -> Tensor:
    return torch.tensor([[0.0, 0.0, side, side] for side in sides], dtype=torch.float64)


def test_the_level_of_a_box_is_that_of_its_side() -> None:
    assert levels(squares(111, 112, 223, 224, 448, 5000, 1, 0), 224, 2, 5).tolist() == [2, 3, 3, 4, 5, 5, 2, 2]


def test_each_box_is_read_from_its_map_and_its_image() -> None:
    maps = [torch.full((2, 1, 32 // stride, 32 // stride), 1.0 * stride) for stride in (4, 8, 16)]
    maps = [x * torch.tensor([1.0, -1.0])[:, None, None, None] for x in maps]
    boxes = [squares(20, 5).float(), squares(10).float()]
    assert pool(maps, (4, 8, 16), boxes, 2, canonical=20).mean((1, 2, 3)).tolist() == [16, 4, -8]
    assert pool(maps, (4, 8, 16), [boxes[0][:0]] * 2, 2, canonical=20).shape == (0, 1, 2, 2)


def test_a_mask_of_ones_fills_its_box_up_to_half_a_pixel_of_the_mask() -> None:
    image = paste(torch.ones(1, 4, 4), torch.tensor([[2.0, 1, 6, 5]]), 8, 10)[0]
    assert image.shape == (8, 10)
    assert (image > 0.5).nonzero().tolist() == [[y, x] for y in range(1, 6) for x in range(2, 7)]
    assert paste(torch.ones(0, 4, 4), torch.zeros(0, 4), 8, 10).shape == (0, 8, 10)


def test_masks_are_pasted_as_torchvision_does(torchvision: ModuleType) -> None:
    from torchvision.models.detection.roi_heads import paste_masks_in_image

    corner = torch.rand(20, 2, dtype=torch.float64) * 30
    boxes = torch.cat([corner, corner + torch.rand(20, 2) ** 2 * 40], dim=1)
    masks = torch.rand(20, 14, 14, dtype=torch.float64)
    expected = paste_masks_in_image(masks[:, None], boxes, (40, 50))[:, 0]
    torch.testing.assert_close(paste(masks, boxes, 40, 50), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("beyond", [-3.5, 38.0])
def test_what_lies_beyond_the_image_is_cut_off(beyond: float) -> None:
    image = paste(torch.ones(1, 4, 4), torch.tensor([[beyond, beyond, beyond + 5, beyond + 5]]), 40, 40)[0]
    assert image.shape == (40, 40) and image.max() > 0.5
