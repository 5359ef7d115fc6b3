"""What is summed, what is evaluated, and the small scenes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Detection import testing
from dl.modules.Detection.task import Detection
from dl.mytorch.data import Batch
from dl.mytorch.layers.boxes import Detections


class Given(nn.Module):
    """Losses and detections that were given; remembers what it was called with."""

    def __init__(self, *found: Detections, count: Any = None) -> None:
        super().__init__()
        self.weight, self.found, self.count, self.seen = nn.Parameter(torch.ones(())), found, count, ()

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        self.seen = batch
        losses = {"boxes": 2 * self.weight, "classes": 3 * self.weight}
        return losses if self.count is None else losses | {"count": self.count}

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        return list(self.found[: len(images)])


def perfect(batch: Batch, score: float = 0.9) -> list[Detections]:
    """The true boxes of each image."""
    made = []
    for i, labels in enumerate(batch["labels"]):
        real = labels >= 0
        masks = batch["masks"][i][real] if "masks" in batch else None
        made.append(Detections(batch["boxes"][i][real], labels[real], torch.full((int(real.sum()),), score), masks))
    return made


def evaluated(task: Detection, model: Given, *batches: Batch) -> dict[str, float]:
    errors = task.metrics()
    task.begin_evaluation(model)
    for batch in batches:
        outputs = task.eval_step(model, batch).outputs
        for error in errors.values():
            error.update(outputs)
    return {name: error.compute() for name, error in errors.items()}


def test_loss_is_the_sum_of_the_losses_and_each_is_a_quantity() -> None:
    task, batch = Detection(testing.CLASSES, losses=("boxes", "classes")), testing.scenes()
    output = task.step(Given(), batch)
    assert output.loss == 5 and output.count == 3 and output.outputs["boxes"] == 2
    means = task.train_metrics()
    for mean in means.values():
        mean.update(output.outputs)
    assert {name: mean.compute() for name, mean in means.items()} == {"boxes": 2, "classes": 3}
    places = Detection(testing.CLASSES, unit="location")  # of seven of which the losses are means
    assert task.unit == "image" and places.unit == "location"
    assert places.step(Given(count=torch.tensor(7)), batch).count == 7


def test_a_rank_without_an_image_takes_part_in_a_step_and_counts_nothing() -> None:
    model, nothing = Given(), {name: tensor[:0] for name, tensor in testing.scenes(masks=True).items()}
    task = Detection(testing.CLASSES, losses=("boxes",), masks=True)
    output = task.eval_step(model, nothing)
    assert output.count == 0 and not len(output.outputs["matches"])
    images, sizes, boxes, labels, masks = model.seen
    assert images.shape == (1, 3, 48, 48) and sizes.tolist() == [[48, 48]] and labels.tolist() == [[-1] * 3]
    assert not masks.any() and not boxes.any()
    output.loss.backward()


def test_a_detector_that_finds_all_has_no_error() -> None:
    batch = testing.scenes(masks=True)
    errors = evaluated(Detection(testing.CLASSES, masks=True), Given(*perfect(batch)), batch)
    assert set(errors) == {
        *("map50_error", "map_error", "mask_map50_error", "mask_map_error", "ap50_bright_error", "ap50_dark_error")
    }
    assert list(errors.values()) == pytest.approx([0] * 6, abs=1e-12)


def test_boxes_of_padding_and_of_crowds_are_no_targets() -> None:
    batch = testing.scenes()
    model, batch = Given(*perfect(batch)), batch | {"crowd": torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 0]])}
    task = Detection(testing.CLASSES)
    outputs = task.eval_step(model, batch).outputs
    assert outputs["truths"].sum() == (batch["labels"] >= 0).sum() - 1
    assert model.seen[3][2, 0] == -1 and batch["labels"][2, 0] >= 0
    assert evaluated(task, model, batch)["map50_error"] == pytest.approx(0, abs=1e-12)


def test_each_class_has_an_error_unless_there_are_many() -> None:
    assert list(Detection(("a b", "c")).metrics()) == ["map50_error", "map_error", "ap50_a_b_error", "ap50_c_error"]
    assert list(Detection([str(i) for i in range(20)]).metrics()) == ["map50_error", "map_error"]


def test_the_images_with_most_mistakes_are_shown_and_then_forgotten() -> None:
    """One box is missed in the first image, none in the second, three in the third, where all that is found is unsure."""
    batch, task = testing.scenes(), Detection(testing.CLASSES, worst=2)
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    evaluated(task, Given(nothing, nothing, perfect(batch, score=0.4)[2]), batch)
    assert [count for count, _ in task.kept] == [3, 1] and task.kept[0][1].image.shape == (3, 48, 36)
    assert task.report(Given())["worst"].shape[0] == 3
    task.begin_evaluation(Given())
    assert task.preview(Given()) == {}


# ---- the small scenes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", [False, True])
def test_scenes_have_boxes_in_their_images_and_one_has_none(masks: bool) -> None:
    batch = testing.scenes(masks=masks)
    real = batch["labels"] >= 0
    assert real.sum(1).tolist() == [1, 0, 3] and ("masks" in batch) == masks
    assert not batch["boxes"][~real].any()
    for i, (height, width) in enumerate(batch["sizes"].tolist()):
        boxes = batch["boxes"][i][real[i]]
        assert (boxes[:, :2] < boxes[:, 2:]).all() and (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()
        assert not batch["images"][i, :, height:].any() and not batch["images"][i, :, :, width:].any()


def test_tiny_splits_make_three_steps() -> None:
    data = testing.tiny_splits()
    assert [len(loader) for loader in data] == [3, 3, 1] and len(testing.tiny_batch(masks=True)) == 5
