"""Figures show each box in the colour of its class, names that hide no other, and mistakes with dashed lines."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dl.modules.Detection import figure, testing
from dl.modules.Detection.figure import Example, comparison, drawn, predictions
from dl.modules.Detection.metrics import Truth, truth_of
from dl.mytorch.layers.boxes import Detections

NAMES = ("a", "b")
BOXES = torch.tensor([[100.0, 100, 300, 300], [150, 320, 250, 380]])


def pixels(image: Tensor, label: int) -> Tensor:
    """Where an image has the colour of a class: (H, W)."""
    return ((image * 255).round() == torch.tensor(figure.colour(label)).view(3, 1, 1)).all(0)


def shown(**options: Any) -> Tensor:
    return drawn(torch.rand(3, 400, 400), BOXES, torch.tensor([0, 1]), NAMES, **options)


def test_a_box_has_the_colour_of_its_class_and_its_name() -> None:
    image = shown(scores=torch.tensor([0.5, 0.75]))
    first, second = pixels(image, 0), pixels(image, 1)
    assert first[100:300, 100].all() and first[299, 100:300].all() and not first[110:290, 110:290].any()
    assert second[320:380, 151].all()
    assert first[85:98, 99:130].float().mean() > 0.3 and second[305:318, 149:180].float().mean() > 0.3  # the tags


def test_dashed_lines_have_gaps() -> None:
    image = shown(dashed=torch.tensor([True, False]))
    line = pixels(image, 0)[105:295, 100]
    assert 0.3 < line.float().mean() < 0.7 and pixels(image, 1)[325:375, 151].all()


def test_without_boxes_an_image_stays_as_it_is() -> None:
    image = torch.rand(1, 500, 300)
    got = drawn(image, torch.zeros(0, 4), torch.zeros(0), NAMES, scores=torch.zeros(0), masks=torch.zeros(0, 500, 300).bool())
    assert got.shape == (3, 500, 300)
    span = (image - image.min()) / (image.max() - image.min())
    torch.testing.assert_close(got[:1], span, rtol=0, atol=1.01 / 255)


@pytest.mark.parametrize(("size", "expected"), [((48, 36), (400, 300)), ((640, 480), (640, 480)), ((300, 2000), (150, 1000))])
def test_small_images_are_enlarged_and_large_ones_reduced(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert drawn(torch.rand(3, *size), torch.zeros(0, 4), torch.zeros(0), NAMES).shape == (3, *expected)


def test_masks_are_filled_and_have_an_edge() -> None:
    masks = torch.zeros(2, 400, 400, dtype=torch.bool)
    masks[1, 330:370, 160:240] = True
    image = drawn(torch.zeros(3, 400, 400), BOXES, torch.tensor([0, 1]), NAMES, masks=masks)
    inside, edge = image[:, 350, 200], image[:, 330, 200]
    torch.testing.assert_close(inside, 0.4 * torch.tensor(figure.colour(1)) / 255, rtol=0, atol=0.01)
    torch.testing.assert_close(edge, 0.9 * torch.tensor(figure.colour(1)) / 255, rtol=0, atol=0.01)


def test_names_of_boxes_in_one_place_do_not_hide_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[figure.Spot] = []
    tag = figure._tag
    monkeypatch.setattr(figure, "_tag", lambda *arguments: (tag(*arguments), places.__setitem__(slice(None), arguments[-1])))
    boxes = torch.tensor([[100.0, 100, 300, 300]]).repeat(4, 1)
    drawn(torch.rand(3, 400, 400), boxes, torch.arange(4), ("one", "two", "three", "four"), scores=torch.rand(4))
    assert len(places) == 4
    assert all(not figure._common(a, b) for i, a in enumerate(places) for b in places[:i])


def test_a_name_stays_in_the_image() -> None:
    for box in ([-5.0, -5, 20, 20], [380, 390, 400, 400], [0, 0, 400, 400]):
        image = drawn(torch.rand(3, 400, 400), torch.tensor([box]), torch.tensor([0]), ("a long name",))
        assert pixels(image, 0).sum() > 600


def example(i: int) -> Example:
    batch = testing.scenes(masks=True)
    truth = truth_of(batch, i)
    height, width = batch["sizes"][i].tolist()
    masks = truth.masks[:, :height, :width]
    found = Detections(truth.boxes.float(), truth.labels, torch.linspace(0.9, 0.1, len(masks)), masks)
    return Example.of(batch["images"][i], batch["sizes"][i], found, truth, score=0.3)


def test_a_row_shows_what_is_there_and_what_is_found_without_padding() -> None:
    one, none = example(2), example(1)
    assert one.image.shape == (3, 48, 36) and len(one.found.labels) == 2 and one.num_mistakes == 1
    assert none.num_mistakes == 0
    figures = comparison([one, none], testing.CLASSES)
    assert figures.shape == (3, (22 + 400) + 8 + (22 + round(400 * 32 / 44)), 400 * 2 + 8)
    assert predictions([one.image] * 3, [one.found] * 3, testing.CLASSES).shape == (3, 400 * 2 + 8, 300 * 2 + 8)


def test_masks_of_an_example_end_where_its_image_does() -> None:
    one = example(2)
    assert one.truth.masks is not None and one.truth.masks.shape == (3, 48, 36)
    batch = testing.scenes(masks=True)
    truth = truth_of(batch, 2)
    found = Detections(truth.boxes, truth.labels, torch.ones(3), truth.masks)  # masks with the padding
    made = Example.of(batch["images"][2], batch["sizes"][2], found, truth, 0.5)
    assert made.found.masks is not None and made.found.masks.shape == (3, 48, 36) and made.num_mistakes == 0


def test_boxes_without_masks_may_be_compared() -> None:
    truth = Truth(BOXES.double(), torch.tensor([0, 1]), torch.zeros(2).bool(), torch.ones(2))
    found = Detections(BOXES[:1], torch.tensor([1]), torch.tensor([0.5]))
    made = Example.of(torch.rand(1, 400, 400), torch.tensor([400, 400]), found, truth, 0.5)
    assert made.num_mistakes == 3
    assert comparison([made], NAMES).shape == (3, 422, 808)
