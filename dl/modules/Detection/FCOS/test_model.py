"""FCOS: numbers worked by hand, what its losses do and do not depend on; and through its recipe."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Detection.backbone import FrozenNorm
from dl.modules.Detection.FCOS import train
from dl.modules.Detection.FCOS.model import (
    FCOS,
    Heads,
    Locations,
    Outputs,
    assign,
    boxes_at,
    build,
    centreness_of,
    distances_to,
    example,
    focal_loss,
    locate,
)
from dl.modules.Detection.task import Detection
from dl.modules.Detection.testing import CLASSES, scenes, tiny_splits
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.layers.boxes import Detections


def test_the_paper_s_network_has_torchvision_s_32_269_600_parameters_for_91_classes() -> None:
    with without_values():
        assert count_parameters(build("fcos")) == 32_269_600
        losses = build("fcos")(*example("fcos"))  # no number of the forward pass is read: nothing waits for a device
        assert build("fcos").strides == [8, 16, 32, 64, 128] and set(losses) == {*PARTS, "count"}


PARTS = ("class_loss", "box_loss", "centreness_loss")

# ---- locations -----------------------------------------------------------------------------------------------------


def test_locations_are_the_paper_s_or_torchvision_s() -> None:
    """33 pixels under 9 places of stride 4: torchvision divides 33 by 9, and starts in the corner."""
    image, maps = torch.zeros(1, 3, 33, 40), [torch.zeros(1, 1, 9, 10)]
    paper, theirs = (locate(maps, [4], image, grid)[0].points.view(9, 10, 2) for grid in ("paper", "torchvision"))
    assert paper[0, :3].tolist() == [[2, 2], [6, 2], [10, 2]] and paper[8, 9].tolist() == [38, 34]
    assert theirs[0, :3].tolist() == [[0, 0], [4, 0], [8, 0]] and theirs[8, 9].tolist() == [36, 24]
    with pytest.raises(ValueError, match="grid 'corner' is one of"):
        build("tiny", grid="corner")


def test_levels_share_the_sizes_of_boxes_without_gap() -> None:
    levels = locate([torch.zeros(1, 1, 2, 2)] * 3, [8, 16, 32], torch.zeros(1, 3, 16, 16), "paper")
    assert [(level.lowest[0].item(), level.highest[0].item()) for level in levels] == [(0, 64), (64, 128), (128, math.inf)]


def test_distances_and_centreness_are_the_worked_ones() -> None:
    distances = distances_to(torch.tensor([2.0, 4, 20, 10]), torch.tensor([8.0, 8]))
    assert (distances / 8).tolist() == [0.75, 0.5, 1.5, 0.25] and centreness_of(distances) == 0.5
    assert boxes_at(torch.tensor([8.0, 8]), distances).tolist() == [2, 4, 20, 10]
    assert centreness_of(torch.tensor([3.0, 2, 3, 2])) == 1


# ---- which box a location has to find ------------------------------------------------------------------------------


def at(*points: tuple[float, float], stride: float = 8, limits: tuple[float, float] = (0, math.inf)) -> Locations:
    return Locations(torch.tensor(points), *(torch.full((len(points),), n) for n in (stride, *limits)))


def test_a_location_finds_the_smallest_box_around_it_and_no_padding() -> None:
    boxes = torch.tensor([[[0.0, 0, 40, 40], [10, 10, 30, 30], [10, 10, 30, 30], [19, 19, 21, 21]], [[0, 0, 0, 0]] * 4])
    labels = torch.tensor([[0, 1, 0, -1], [-1] * 4])
    where = at((20, 20), (29, 20), (31.9, 20), (32, 20), (60, 20))
    assert assign(where, boxes, labels, 1.5).tolist() == [[1, 1, 0, -1, -1], [-1] * 5]  # 32 is 1.5 strides from the centre


def test_a_location_on_the_side_of_a_box_or_beyond_is_negative() -> None:
    box, label = torch.tensor([[[0.0, 0, 20, 10]]]), torch.tensor([[0]])
    assert assign(at((0, 5), (0.1, 5), (19, 10), (19, 9), (21, 5)), box, label, 10.0).tolist() == [[-1, 0, -1, 0, -1]]


def test_the_limits_of_a_level_belong_to_neither_level() -> None:
    box, label = torch.tensor([[[0.0, 0, 80, 80]]]), torch.tensor([[0]])
    points = ((40, 40), (40, 16), (40, 15))  # the largest distances: 40, 64, 65
    assert assign(at(*points, limits=(0, 64)), box, label, 10.0).tolist() == [[0, -1, -1]]
    assert assign(at(*points, limits=(64, 128)), box, label, 10.0).tolist() == [[-1, -1, 0]]


# ---- losses --------------------------------------------------------------------------------------------------------


def test_focal_loss_is_the_worked_one_and_finite_for_saturated_logits() -> None:
    torch.testing.assert_close(focal_loss(torch.zeros(2), torch.tensor([True, False])), torch.tensor([0.0433217, 0.1299651]))
    logits = torch.tensor([100.0, 100.0, -100.0, -100.0], requires_grad=True)
    losses = focal_loss(logits, torch.tensor([True, False, True, False]))
    losses.sum().backward()
    torch.testing.assert_close(losses.detach(), torch.tensor([0.0, 75.0, 25.0, 0.0]))
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_classes_start_with_a_probability_of_a_hundredth_and_a_loss_near_one() -> None:
    heads = Heads(8, 3, 2, 4)
    assert heads.logits.bias.tolist() == pytest.approx([-4.5951199] * 3)
    convolutions = [m for m in heads.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 7 and not any(m.bias.any() for m in convolutions if m is not heads.logits)
    assert torch.cat([m.weight.flatten() for m in convolutions]).std().item() == pytest.approx(0.01, rel=0.1)
    assert 0.5 < build("tiny")(*arguments())["class_loss"] < 5


class Fixed(FCOS):
    """Outputs that were given, at the locations of 8 x 8 places of stride 4."""

    def __init__(self, logits: Tensor, distances: Tensor, centreness: Tensor) -> None:
        nn.Module.__init__(self)
        self.given, self.radius = Outputs(logits, distances, centreness), 1.5

    def outputs(self, images: Tensor) -> tuple[Outputs, list[Locations]]:
        return Outputs(*(x[: len(images)] for x in self.given)), locate([torch.zeros(1, 1, 8, 8)], [4], images, "paper")


def test_losses_of_one_location_are_the_worked_ones() -> None:
    """The box [7, 8, 13, 12] lies around the location (10, 10) alone, with distances 3, 2, 3, 2: centre-ness 1."""
    logits, distances, centreness = torch.full((1, 64, 2), -100.0), torch.zeros(1, 64, 4), torch.zeros(1, 64)
    place = 2 * 8 + 2
    logits[0, place], distances[0, place] = torch.tensor([-100.0, 0.0]), torch.tensor([3.0, 1, 3, 1])  # half the box
    model = Fixed(logits, distances, centreness)
    losses = model(torch.zeros(1, 3, 32, 32), torch.tensor([[32, 32]]), torch.tensor([[[7.0, 8, 13, 12]]]), torch.tensor([[1]]))
    expected = {"class_loss": 0.0433217, "box_loss": 0.5, "centreness_loss": math.log(2), "count": 1}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected)


def arguments(**changes: Tensor) -> tuple[Tensor, ...]:
    batch = scenes() | changes
    return batch["images"], batch["sizes"], batch["boxes"], batch["labels"]


@pytest.fixture
def model() -> FCOS:
    model = build("tiny").double().train()
    for parameter in model.heads.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def losses_of(model: FCOS, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return model(images.double(), sizes, boxes.double(), labels)


def test_losses_are_sums_over_the_batch_by_all_its_positive_locations(model: FCOS) -> None:
    """Not means of the images' own: an image with few positive locations would weigh as much as one with many."""
    given, model = arguments(), model.eval()  # batch norms do not mix images
    together = losses_of(model, *given)
    alone = [losses_of(model, *(x[i : i + 1] for x in given)) for i in (0, 2)]
    assert together["count"] == sum(each["count"] for each in alone) and alone[0]["count"] != alone[1]["count"]
    for name in ("box_loss", "centreness_loss"):
        torch.testing.assert_close(together[name] * together["count"], sum(each[name] * each["count"] for each in alone))


def test_losses_depend_neither_on_the_order_of_the_boxes_nor_on_padding(model: FCOS) -> None:
    images, sizes, boxes, labels = arguments()
    expected = losses_of(model.eval(), images, sizes, boxes, labels)
    more = torch.cat([boxes.flip(1), boxes.new_tensor([0, 0, 40, 40]).expand(3, 2, 4)], dim=1)
    found = losses_of(model, images, sizes, more, torch.cat([labels.flip(1), labels.new_full((3, 2), -1)], dim=1))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_images_without_a_box_and_boxes_without_area_leave_losses_and_gradients_finite(model: FCOS) -> None:
    images, sizes, boxes, labels = arguments()
    flat = boxes[..., [0, 1, 0, 3]]  # x1 = x0
    for given in ((boxes[:, :1], labels[:, :1] * 0 - 1), (flat, labels)):
        losses = losses_of(model, images, sizes, *given)
        assert losses["box_loss"] == losses["centreness_loss"] == 0 < losses["class_loss"] and losses["count"] == 1
        model.zero_grad()
        torch.stack([losses[name] for name in PARTS]).sum().backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("label", [0, 1])
def test_boxes_of_every_class_are_learnt(model: FCOS, label: int) -> None:
    images, sizes, boxes, labels = arguments()
    losses = losses_of(model, images, sizes, boxes, torch.where(labels >= 0, label, -1))
    (gradient,) = torch.autograd.grad(losses["box_loss"], model.heads.distances.weight)
    assert gradient.any()


def test_an_image_moved_by_a_stride_has_its_outputs_one_place_further() -> None:
    model = build("tiny", backbone={"preset": "tiny", "depths": (1, 1), "stages": (2,)}, depth=0).double().eval()
    assert model.strides == [2]
    image = torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    image[..., 24:40, 24:40] = torch.randn(3, 16, 16, dtype=torch.float64)
    with torch.no_grad():
        before, after = (model.outputs(x)[0].logits.view(32, 32, 2) for x in (image, image.roll((2, 4), (2, 3))))
    torch.testing.assert_close(after[1:, 2:][4:-4, 4:-4], before[:-1, :-2][4:-4, 4:-4], rtol=0, atol=1e-12)


# ---- detection -----------------------------------------------------------------------------------------------------


def test_detections_are_the_best_that_no_better_one_of_the_class_covers_cut_at_the_image() -> None:
    logits, distances, centreness = torch.full((1, 64, 2), -20.0), torch.full((1, 64, 4), 5.0), torch.zeros(1, 64)
    for place, label, logit in ((0, 0, 3.0), (1, 0, 2.0), (1, 1, 1.0), (63, 0, 0.0), (20, 0, -6.0)):
        logits[0, place, label] = logit
    distances[0, 1, 0] += 4  # with that of the first place: the sides 0 and 0, 7 and 11, after the cut
    scores = [math.sqrt(0.5 / (1 + math.exp(-logit))) for logit in (3, 2, 1, 0)]
    model = Fixed(logits, distances, centreness)

    def found(nms_threshold: float, candidates: int = 1000, most: int = 100) -> Detections:
        model.score_threshold, model.nms_threshold, model.candidates, model.max_detections = (
            0.05,
            nms_threshold,
            candidates,
            most,
        )
        return model.detect(torch.zeros(1, 3, 32, 32), torch.tensor([[30, 28]]))[0]

    every = found(0.64)  # the IoU of the first two is 7 / 11
    assert every.labels.tolist() == [0, 0, 1, 0] and every.scores.tolist() == pytest.approx(scores)
    assert every.boxes.tolist() == [[0, 0, 7, 7], [0, 0, 11, 7], [0, 0, 11, 7], [25, 25, 28, 30]]
    assert found(0.63).scores.tolist() == pytest.approx([scores[i] for i in (0, 2, 3)])  # another class is not suppressed
    assert found(0.63, most=2).labels.tolist() == [0, 1]
    assert found(0.63, candidates=1).scores.tolist() == pytest.approx(scores[:1])


@pytest.mark.slow
def test_objects_that_were_overfitted_are_found_and_nothing_else() -> None:
    model, task, batch = build("tiny"), Detection(CLASSES), scenes(8)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(150):
        task.step(model.train(), batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        outputs = task.eval_step(model.eval(), batch).outputs
    errors = task.metrics()
    for error in errors.values():
        error.update(outputs)
    assert errors["map50_error"].compute() == 0 and errors["map_error"].compute() < 0.4


# ---- the recipe ----------------------------------------------------------------------------------------------------


class Heard(nn.Module):
    """The outputs of an FCOS as tensors with a row for each image."""

    def __init__(self, model: FCOS) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Outputs:
        return self.model.outputs(images)[0]


def config(**flags: Any) -> train.Config:
    return train.Config(**{"model": "tiny", "steps": 3, "eval_every": 2, "batch_size": 3, **flags})


def test_the_recipe_trains_norms_although_the_preset_freezes_them() -> None:
    with without_values():
        model = train.build_model(config(model="fcos", data="scenes"))
    assert not any(isinstance(module, FrozenNorm) for module in model.modules()) and model.heads.logits.out_channels == 5


def test_speed_is_counted_in_locations_over_which_the_losses_are_means(tmp_path: Path) -> None:
    train.main(config(out=str(tmp_path), plots=False), tiny_splits())
    speed = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert speed["unit"] == "location" and speed["items"] > 2 * speed["examples"] > 0


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    scenes,
    splits=lambda _: tiny_splits(),
    task=lambda: Detection(CLASSES),
    output=Heard,
    overfit=[testing.Overfit(lr=1e-2, below=0.8)],
)
