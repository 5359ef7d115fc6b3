"""Losses by hand; what the evaluation of a classification remembers, and what its report draws."""

import math
from typing import Iterator

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch.data import Batch, Splits
from dl.mytorch.layers import sequential
from dl.mytorch.metrics import Metrics, TopKError
from dl.mytorch.tasks import Classification, Regression, StepOutput, Task


class Fixed(nn.Module):
    """Puts out its images' first pixels as logits: image i of `batch` below has the logits that a test wants."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3]


def batch(logits: list[list[float]], labels: list[int]) -> Batch:
    images = torch.zeros(len(labels), 1, 4, 4)
    images.view(len(labels), 16)[:, :3] = torch.tensor(logits).view(-1, 3)
    return {"images": images, "labels": torch.tensor(labels, dtype=torch.long)}


LOGITS = [[math.log(1.0), math.log(2.0), math.log(5.0)], [math.log(6.0), math.log(1.0), math.log(1.0)]]
LABELS = [2, 1]  # given the probabilities 5/8 and 1/8


def test_the_loss_is_the_mean_cross_entropy() -> None:
    task = Classification()
    for step in (task.step, task.eval_step):
        output = step(Fixed(), batch(LOGITS, LABELS))
        assert output.loss.item() == pytest.approx((math.log(8 / 5) + math.log(8)) / 2)
        assert output.count == 2
        assert output.outputs["labels"].tolist() == LABELS
        torch.testing.assert_close(output.outputs["logits"], torch.tensor(LOGITS))


def test_label_smoothing_acts_in_training_only() -> None:
    task = Classification(label_smoothing=0.3)
    # Section 7: 0.7 of the target on the label, 0.1 on each of the 3 classes.
    first = -(0.8 * math.log(5 / 8) + 0.1 * math.log(2 / 8) + 0.1 * math.log(1 / 8))
    second = -(0.1 * math.log(6 / 8) + 0.8 * math.log(1 / 8) + 0.1 * math.log(1 / 8))
    assert task.step(Fixed(), batch(LOGITS, LABELS)).loss.item() == pytest.approx((first + second) / 2)
    assert task.eval_step(Fixed(), batch(LOGITS, LABELS)).loss.item() == pytest.approx((math.log(8 / 5) + math.log(8)) / 2)


def test_shares_of_classes_are_learnt_where_a_batch_has_them_and_errors_count_labels() -> None:
    mixed = batch(LOGITS, LABELS) | {"targets": torch.tensor([[0.0, 0.25, 0.75], [0.5, 0.5, 0.0]])}
    first = -(0.25 * math.log(2 / 8) + 0.75 * math.log(5 / 8))
    second = -(0.5 * math.log(6 / 8) + 0.5 * math.log(1 / 8))
    output = Classification().step(Fixed(), mixed)
    assert output.loss.item() == pytest.approx((first + second) / 2)
    assert output.count == 2 and output.outputs["labels"].tolist() == LABELS
    smooth = [-sum(math.log(p / 8) for p in row) / 3 for row in ((1, 2, 5), (6, 1, 1))]
    smoothed = Classification(label_smoothing=0.3).step(Fixed(), mixed).loss.item()
    assert smoothed == pytest.approx((0.7 * (first + second) + 0.3 * sum(smooth)) / 2)
    assert Classification().eval_step(Fixed(), mixed).loss.item() == pytest.approx((math.log(8 / 5) + math.log(8)) / 2)


def test_tta_flip_averages_the_logits_of_an_image_and_its_mirror_image_in_evaluation_only() -> None:
    mirrored = batch([[1.0, 2.0, 3.0]], [0])
    mirrored["images"][0, 0, 0, 3] = 7.0  # the first row of pixels, 1 2 3 7, is 7 3 2 1 in the mirror
    task = Classification(tta_flip=True)
    assert task.eval_step(Fixed(), mirrored).outputs["logits"].tolist() == [[4.0, 2.5, 2.5]]
    assert task.step(Fixed(), mirrored).outputs["logits"].tolist() == [[1.0, 2.0, 3.0]]


def test_the_loss_has_a_graph_and_the_outputs_have_none() -> None:
    model = sequential(flat=nn.Flatten(), fc=nn.Linear(16, 3))
    output = Classification().step(model, batch(LOGITS, LABELS))
    assert output.loss.requires_grad and not output.outputs["logits"].requires_grad


def test_errors_are_top_1_and_top_5_and_new_at_each_call() -> None:
    task = Classification()
    metrics, others = task.metrics(), task.metrics()
    assert {name: metric.k for name, metric in metrics.items() if isinstance(metric, TopKError)} == {
        "top1_error": 1,
        "top5_error": 5,
    }
    assert all(metrics[name] is not others[name] for name in metrics)


@pytest.mark.parametrize(("classes", "errors"), [(2, ["top1_error"]), (5, ["top1_error"]), (6, ["top1_error", "top5_error"])])
def test_a_top_k_error_that_is_always_0_is_not_shown(classes: int, errors: list[str]) -> None:
    assert list(Classification(class_names=list("abcdef")[:classes]).metrics()) == errors


def test_the_monitored_quantity_can_be_chosen() -> None:
    assert Classification().monitor == "loss"
    assert Classification(monitor="top1_error").monitor == "top1_error"


def test_training_remembers_nothing() -> None:
    task = Classification()
    task.step(Fixed(), batch(LOGITS, LABELS))
    assert task.mistakes.confusion is None and task.mistakes.kept == {}


def test_an_empty_batch_counts_nothing() -> None:
    """A rank may have no example of a short last batch."""
    task, metrics = Classification(0.1), Metrics(Classification().metrics())
    empty = {name: tensor[:0] for name, tensor in batch(LOGITS, LABELS).items()}
    for part in (empty, batch(LOGITS, LABELS), empty):
        output = task.eval_step(Fixed(), part)
        metrics.update(*output)
    assert task.mistakes.confusion.sum() == 2 and len(task.mistakes.kept["labels"]) == 2
    assert metrics.compute() == {
        "loss": pytest.approx((math.log(8 / 5) + math.log(8)) / 2),
        "top1_error": 0.5,
        "top5_error": 0.0,
    }
    assert task.step(Fixed(), empty).count == 0


def evaluated(task: Classification, splits: Splits) -> nn.Module:
    """An untrained network after one evaluation: most is wrong."""
    channels = next(splits.test.batches())["images"].shape[1]
    model = sequential(conv=nn.Conv2d(channels, 4, 5), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(4, 10))
    for part in splits.test.batches():
        task.eval_step(model, part)
    return model


@pytest.fixture(params=["grey", "colour"])
def splits(request: pytest.FixtureRequest, tiny_images: Splits, tiny_color_images: Splits) -> Iterator[Splits]:
    yield tiny_images if request.param == "grey" else tiny_color_images


@torch.no_grad()
def test_a_report_is_of_figures_that_a_logger_takes(splits: Splits) -> None:
    task = Classification()
    figures = task.report(evaluated(task, splits))
    assert set(figures) == {"confusion", "mistakes", "most_confused", "kernels"}
    for name, figure in figures.items():
        assert figure.ndim == 3 and figure.shape[0] in (1, 3), name
        assert 0 <= figure.min() and figure.max() <= 1, name
    assert task.mistakes.confusion is None and task.mistakes.kept == {}
    assert task.report(nn.Flatten()) == {}


@torch.no_grad()
def test_a_new_evaluation_forgets_the_one_before(tiny_images: Splits) -> None:
    task = Classification()
    evaluated(task, tiny_images)
    task.metrics()  # changes nothing
    assert task.mistakes.confusion is not None and task.mistakes.kept
    task.begin_evaluation(Fixed())
    assert task.mistakes.confusion is None and task.mistakes.kept == {}


def test_a_preview_is_of_the_kernels(tiny_images: Splits) -> None:
    task = Classification()
    model = evaluated(task, tiny_images)
    assert set(task.preview(model)) == {"kernels"}
    assert task.preview(nn.Linear(2, 2)) == {}


def test_a_report_without_mistakes_has_only_the_confusion_matrix() -> None:
    task = Classification(class_names=("cat", "dog", "fox"))
    task.eval_step(Fixed(), batch([[5, 0, 0], [0, 5, 0]], [0, 1]))
    assert set(task.report(Fixed())) == {"confusion"}


def test_a_task_of_one_s_own_needs_a_step_alone() -> None:
    class Sum(Task):
        def step(self, model: nn.Module, batch: Batch) -> StepOutput:
            return StepOutput(model(batch["x"]).sum(), len(batch["x"]), {})

    task = Sum()
    assert task.eval_step(nn.Identity(), {"x": torch.ones(3)}).loss == 3
    assert (task.metrics(), task.preview(nn.Identity()), task.report(nn.Identity()), task.monitor) == ({}, {}, {}, "loss")
    with pytest.raises(NotImplementedError):
        Task().step(nn.Identity(), {})


TABLE = {"features": torch.tensor([[1.0, 5.0], [2.0, 2.0]]), "targets": torch.tensor([[1.0, 2.0], [4.0, 9.0]])}


def test_regression_loss_is_the_mean_square_over_all_target_elements() -> None:
    output = Regression().step(nn.Identity(), TABLE)  # differences 0, 3, 2, 7
    assert output.loss.item() == 62 / 4
    assert output.count == 4
    assert output.outputs["predictions"].tolist() == [[1, 5], [2, 2]]


def test_regression_records_what_falls() -> None:
    task = Regression()
    metrics = Metrics(task.metrics())
    for part in (slice(0, 1), slice(1, 1), slice(1, 2)):  # a rank may have no example of a short last batch
        metrics.update(*task.eval_step(nn.Identity(), {name: tensor[part] for name, tensor in TABLE.items()}))
    expected = {"loss": 62 / 4, "rmse": math.sqrt(62 / 4), "unexplained": 62 / 38}  # squares about the mean 4: 38
    assert metrics.compute() == pytest.approx(expected)
    assert task.monitor == "loss"


def test_regression_loss_has_a_graph_and_the_outputs_have_none() -> None:
    output = Regression().step(nn.Linear(2, 2), TABLE)
    assert output.loss.requires_grad and not output.outputs["predictions"].requires_grad


def test_targets_of_another_shape_are_refused_not_broadcast() -> None:
    column = {"features": torch.zeros(3, 1), "targets": torch.zeros(3)}  # would make 3 x 3 differences
    with pytest.raises(ValueError, match=r"predictions \(3, 1\) for targets \(3,\)"):
        Regression().step(nn.Identity(), column)
