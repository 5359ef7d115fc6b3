"""Errors against worked numbers; they pool pixels, so that no batch changes them."""

import math

import pytest
import torch
from torch import Tensor

from dl.modules.Segmentation.metrics import DiceError, IoUError, PixelError, confusion, rand_error
from dl.mytorch.metrics import Metric


def masks(*rows: str) -> Tensor:
    return torch.tensor([[int(value) if value != "." else 255 for value in row] for row in rows], dtype=torch.uint8)


def measured(metric: Metric, predicted: Tensor, labels: Tensor, classes: int = 2, batch: int = 1) -> float:
    for i in range(0, len(labels), batch):
        metric.update({"confusion": confusion(predicted[i : i + batch], labels[i : i + batch], classes)})
    return metric.compute()


def test_iou_and_dice_are_pooled_over_images() -> None:
    """IoU of class 1: 1/2 in the first image, 9/10 in the second, 10/12 = 0.8333 in both; the mean of images would be 0.7."""
    labels, predicted = masks("1100000000", "1111111111"), masks("1000000000", "1111111110")
    counts = confusion(predicted, labels, 2)
    assert counts.tolist() == [[8, 0], [2, 10]]
    assert measured(DiceError(2, 1), predicted, labels) == pytest.approx(1 - 0.9090909, abs=1e-7)
    assert measured(IoUError(2), predicted, labels) == pytest.approx(1 - (10 / 12 + 8 / 10) / 2)
    assert measured(PixelError(2), predicted, labels) == pytest.approx(2 / 20)


@pytest.mark.parametrize("make", [lambda: PixelError(3), lambda: IoUError(3), lambda: DiceError(3, 2)])
def test_an_error_does_not_depend_on_batches(make: type[Metric]) -> None:
    generator = torch.Generator().manual_seed(0)
    labels, predicted = torch.randint(3, (2, 9, 5, 4), generator=generator)
    values = {measured(make(), predicted, labels, 3, batch) for batch in (1, 2, 7, 9)}
    assert len(values) == 1 and 0 < values.pop() < 1


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean() -> None:
    labels, predicted = masks("0011"), masks("0111")
    assert measured(IoUError(3), predicted, labels, 3) == pytest.approx(1 - (1 / 2 + 2 / 3) / 2)
    assert math.isnan(measured(DiceError(3, 2), predicted, labels, 3))
    assert measured(IoUError(3), masks("0112"), labels, 3) == pytest.approx(1 - (1 / 2 + 1 / 3 + 0) / 3)  # predicted: counts


def test_what_is_predicted_under_pixels_that_do_not_count_changes_nothing() -> None:
    labels = masks("00.11.")
    found = {measured(IoUError(2), masks(predicted), labels) for predicted in ("000110", "001111", "000111")}
    assert found == {0.0}


def test_nothing_counted_is_nan_and_state_is_restored() -> None:
    assert math.isnan(PixelError(2).compute())
    first, second = PixelError(2), PixelError(2)
    first.update({"confusion": torch.tensor([[3, 1], [0, 4]])})
    second.sums = first.sums.clone()
    assert second.compute() == first.compute() == 1 / 8
    first.reset()
    assert math.isnan(first.compute())


def test_two_cells_merged_into_one_have_the_worked_rand_error() -> None:
    label = masks("1111112222")
    assert rand_error(masks("1111111111"), label) == pytest.approx(1 - 0.6842105, abs=1e-7)
    assert rand_error(label, masks("1111111111")) == pytest.approx(1 - 0.6842105, abs=1e-7)  # split
    assert rand_error(masks("3333337777"), label) == 0
    assert math.isnan(rand_error(label, masks("0000000000")))


def test_rand_error_counts_no_membrane_of_the_label_and_each_of_the_prediction_by_itself() -> None:
    assert rand_error(masks("1111177722"), masks("1111100022")) == 0
    both, one, other = 16 + 4 + 1, 16 + 4 + 1, 25 + 4
    assert rand_error(masks("1111000022"), masks("1111100022")) == pytest.approx(1 - both / ((one + other) / 2))
