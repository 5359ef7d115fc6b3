"""The loss by hand, what is evaluated, and what figures show."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.Segmentation.figure import ADDED, MISSED, comparison, mistakes, overlay
from dl.modules.Segmentation.task import Segmentation
from dl.mytorch.data import Batch


class Fixed(nn.Module):
    """Logits that were given, for any images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: Tensor) -> Tensor:
        return self.logits[: len(images)]

    predict = forward


def batch(**more: Any) -> Batch:
    return {"images": torch.rand(1, 1, 1, 4), "masks": torch.tensor([[[0, 1, 1, 255]]], dtype=torch.uint8), **more}


LOGITS = torch.tensor([0.0, 1.0, -1.0, 5.0]).view(1, 1, 1, 4)
MODEL = Fixed(torch.cat([torch.zeros_like(LOGITS), LOGITS], dim=1))  # of class 1 against 0


def test_loss_is_the_weighted_sum_over_the_number_of_pixels_that_count() -> None:
    task, terms = Segmentation(("a", "b")), torch.nn.functional.softplus(torch.tensor([0.0, -1.0, 1.0]))
    output = task.step(MODEL, batch())
    torch.testing.assert_close(output.loss, terms.sum() / 3)
    assert output.count == 3 and output.outputs["confusion"].tolist() == [[1, 0], [1, 1]]
    weighted = task.step(MODEL, batch(weights=torch.tensor([[[1.0, 2.0, 4.0, 100.0]]])))
    torch.testing.assert_close(weighted.loss, (terms * torch.tensor([1, 2, 4])).sum() / 3)
    torch.testing.assert_close(task.eval_step(MODEL, batch()).loss, terms.sum() / 3)


def test_a_rank_without_pixels_has_a_loss_of_nothing() -> None:
    output = Segmentation(("a", "b")).step(MODEL, {name: tensor[:0] for name, tensor in batch().items()})
    assert output.loss == 0 and output.count == 0 and not output.outputs["confusion"].any()
    output.loss.backward()


def test_the_worst_images_of_an_evaluation_are_shown_and_then_forgotten() -> None:
    task = Segmentation(("a", "b"), worst=2)
    task.begin_evaluation(MODEL)
    for mask in ([0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 1, 1]):  # 0, 4 and 1 of 4 wrong
        task.eval_step(MODEL, batch() | {"masks": torch.tensor([[mask]])})
    assert [error for error, _ in task.kept] == [1.0, 0.25]
    assert task.report(MODEL)["worst"].shape == (3, 2 * 1 + 6, 3 * 4 + 2 * 6)
    task.begin_evaluation(MODEL)
    assert task.report(MODEL) == {}


def test_each_class_has_a_dice_unless_there_are_many() -> None:
    assert list(Segmentation(("a b", "c")).metrics()) == ["pixel_error", "iou_error", "dice_a_b_error", "dice_c_error"]
    assert list(Segmentation([str(i) for i in range(21)]).metrics()) == ["pixel_error", "iou_error"]


def test_classes_are_coloured_and_mistakes_are_red_or_yellow() -> None:
    image, mask = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]]), torch.tensor([[0, 1, 1, 255]])
    shown = overlay(image, mask)
    assert torch.equal(shown[:, 0, 0], torch.zeros(3)) and torch.equal(shown[:, 0, 3], torch.ones(3))
    assert shown[:, 0, 1].min() < 0.7 and shown[:, 0, 2].max() > 0.2
    wrong = mistakes(image, torch.tensor([[1, 1, 0, 0]]), mask)
    assert torch.equal(wrong[:, 0, 0], MISSED) and torch.equal(wrong[:, 0, 2], ADDED)
    assert torch.equal(wrong[:, 0, 1], torch.ones(3)) and torch.equal(wrong[:, 0, 3], torch.ones(3))
    assert overlay(image.expand(3, -1, -1), torch.full((1, 4), 9)).shape == (3, 1, 4)  # more classes than colours


def test_images_of_several_sizes_fit_into_one_figure() -> None:
    examples = [
        {"image": torch.rand(3, h, w), "mask": torch.zeros(h, w), "predicted": torch.ones(h, w)} for h, w in ((8, 10), (6, 20))
    ]
    assert comparison(examples).shape == (3, 8 * 2 + 6, 10 * 3 + 6 * 2)


def test_an_image_in_colour_may_be_evaluated() -> None:
    task = Segmentation(("a", "b"))
    task.begin_evaluation(MODEL)
    task.eval_step(MODEL, {"images": torch.rand(1, 3, 1, 4), "masks": torch.zeros(1, 1, 4, dtype=torch.uint8)})
    assert task.preview(MODEL)["worst"].shape[0] == 3
