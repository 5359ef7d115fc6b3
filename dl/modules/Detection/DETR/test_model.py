"""DETR: the worked losses, matching, laws of padding and order; through its recipe. The references are in test_parity.py."""

import importlib.util
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Detection.DETR import train
from dl.modules.Detection.DETR.matching import match, set_losses
from dl.modules.Detection.DETR.model import DETR, build, example, sine_positions
from dl.modules.Detection.task import Detection
from dl.modules.Detection.testing import CLASSES, scenes, tiny_batch, tiny_splits
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch
from dl.mytorch.introspect import count_parameters, without_values

assigned = pytest.mark.skipif(
    importlib.util.find_spec("scipy") is None, reason='boxes are assigned by scipy: pip install -e ".[detection]"'
)


# ---- matching and losses -------------------------------------------------------------------------------------------


def predictions(*classes: list[float]) -> Tensor:
    """Logits (1, Q, K + 1) of these probabilities."""
    return torch.tensor([classes], dtype=torch.float64).log()


def corners(*boxes: list[float]) -> Tensor:
    """Boxes (1, N, 4) of centre, width, height."""
    return torch.tensor([boxes], dtype=torch.float64)


@assigned
def test_no_object_counts_a_tenth_in_numerator_and_denominator() -> None:
    boxes = corners([0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9])
    logits = predictions([0.5, 0.2, 0.3], [0.2, 0.1, 0.7], [0.4, 0.3, 0.3])
    losses = set_losses(logits, boxes, boxes[:, :2], torch.tensor([[0, 1]]))
    expected = (-math.log(0.5) - math.log(0.1) - 0.1 * math.log(0.3)) / 2.1
    assert losses["class"].item() == pytest.approx(expected, abs=1e-12) == pytest.approx(1.4838712, abs=1e-7)
    assert losses["l1"].item() == 0 and losses["giou"].item() == pytest.approx(0, abs=1e-12)


@assigned
def test_terms_of_boxes_are_sums_over_pairs_by_the_boxes_of_the_batch() -> None:
    found = corners([0.5, 0.5, 0.2, 0.2]).repeat(2, 1, 1)
    wanted = corners([0.6, 0.5, 0.2, 0.2]).repeat(2, 1, 1)
    logits = predictions([0.5, 0.5]).repeat(2, 1, 1)
    # L1 is 0.1; of [.4, .6] and [.5, .7] across: IoU 1/3, and the smallest box around both has nothing beside them.
    for labels, boxes in (([[0], [0]], 2), ([[0], [-1]], 1)):
        losses = set_losses(logits, found, wanted, torch.tensor(labels))
        assert losses["l1"].item() == pytest.approx(5 * 0.1, abs=1e-12), boxes
        assert losses["giou"].item() == pytest.approx(2 * 2 / 3, abs=1e-12), boxes


@assigned
def test_a_box_that_is_found_twice_costs_more_than_once() -> None:
    boxes = corners([0.3, 0.3, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2])
    for second, relation in (([0.05, 0.95], False), ([0.95, 0.05], True)):
        loss = set_losses(predictions([0.95, 0.05], second), boxes, boxes[:, :1], torch.tensor([[0]]))["class"]
        assert (loss.item() > 0.2) == relation


@assigned
def test_the_cost_is_that_of_equation_1() -> None:
    """The query that is nearer in both terms of the box loses to the surer one where 1 - p weighs more."""
    boxes, target = corners([0.5, 0.5, 0.4, 0.4], [0.5, 0.52, 0.4, 0.4]), corners([0.5, 0.5, 0.4, 0.4])
    # The second is 0.02 off: L1 costs 0.1, IoU 0.38 / 0.42 costs 2 (1 - 0.9048) = 0.1905, together 0.2905.
    for probability, query in ((0.79, 0), (0.8, 1)):
        logits = predictions([0.5, 0.5], [probability, 1 - probability])
        assert match(logits, boxes, target, torch.tensor([[0]])).item() == query


# ---- the network ---------------------------------------------------------------------------------------------------


def test_the_paper_s_network_has_41_million_parameters() -> None:
    with without_values():
        assert count_parameters(build("detr")) == 41_524_768  # transformers' has the same; table 1: 41M


def test_positions_run_to_two_pi_at_the_end_of_the_image() -> None:
    inside = torch.tensor([[True, True, True, True, False]])
    found = sine_positions(inside, 4, torch.float64)[0, :4]
    angle = torch.tensor([[0.5], [1.0], [1.5], [2.0]], dtype=torch.float64) * math.pi
    expected = torch.cat([angle.sin(), angle.cos(), (angle / 100).sin(), (angle / 100).cos()], dim=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # the paper's code adds 1e-6 to the length


@pytest.fixture
def model() -> DETR:
    return testing.randomize_norms(build("tiny")).double().eval()


def batch() -> tuple[Tensor, ...]:
    return tiny_batch(torch.float64)


@assigned
def test_losses_do_not_change_with_the_order_of_boxes_nor_with_more_padding_rows(model: DETR) -> None:
    images, sizes, boxes, labels = batch()
    before = model(images, sizes, boxes, labels)
    more = model(images, sizes, nn.functional.pad(boxes, (0, 0, 2, 1)), nn.functional.pad(labels, (2, 1), value=-1))
    turned = model(images, sizes, boxes.flip(1), labels.flip(1))
    for name, loss in before.items():
        assert more[name].item() == pytest.approx(loss.item(), abs=1e-12), name
        assert turned[name].item() == pytest.approx(loss.item(), abs=1e-12), name


@assigned
def test_losses_of_the_blocks_before_the_last_are_one_sum_and_each_has_its_matching(model: DETR) -> None:
    images, sizes, boxes, labels = batch()
    losses = model(images, sizes, boxes, labels)
    logits, found = model.predict(images, sizes)
    height, width = sizes.unbind(1)
    scale = torch.stack([width, height, width, height], 1)[:, None]
    targets = torch.cat([boxes[..., :2] + boxes[..., 2:], 2 * (boxes[..., 2:] - boxes[..., :2])], -1) / 2 / scale
    first, last = (set_losses(*of_block, targets, labels) for of_block in zip(logits, found))
    assert list(losses) == ["class", "l1", "giou", "auxiliary"]
    assert losses["auxiliary"].item() == pytest.approx(sum(loss.item() for loss in first.values()), abs=1e-12)
    assert all(losses[name].item() == pytest.approx(last[name].item(), abs=1e-12) for name in last)
    assert list(build("tiny", depths=(1, 1))(*example("tiny"))) == ["class", "l1", "giou"]


def test_images_without_a_box_have_a_finite_loss_of_classes_alone(model: DETR) -> None:
    images, sizes, boxes, labels = batch()
    losses = model.train()(images, sizes, 0 * boxes, 0 * labels - 1)
    assert losses["class"].item() > 0 and losses["l1"].item() == losses["giou"].item() == 0
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_a_box_without_area_and_the_label_of_no_object_are_refused(model: DETR) -> None:
    images, sizes, boxes, labels = batch()
    with pytest.raises(ValueError, match=r"a box has x0 < x1 and y0 < y1; got \[0.0, 0.0, 0.0, 0.0\]"):
        model(images, sizes, 0 * boxes, 0 * labels)
    with pytest.raises(ValueError, match="labels are from 0 to 1 for 2 classes; got 2"):
        model(images, sizes, boxes, torch.where(labels == 1, 2, labels))


@assigned
def test_a_box_of_any_class_moves_the_box_head(model: DETR) -> None:
    images, sizes, boxes, labels = batch()
    for label in range(2):
        model.zero_grad()
        losses = model(images, sizes, boxes, torch.where(labels >= 0, label, -1))
        (losses["l1"] + losses["giou"]).backward()
        assert model.box_head.fc3.weight.grad.any()


def test_nothing_looks_at_padding_but_convolutions_see_where_an_image_ends(model: DETR) -> None:
    """So an image beside a larger one has other outputs; the recipe evaluates all images on a canvas of one size."""
    image = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    size = torch.tensor([[40, 40]])
    larger = nn.functional.pad(image, (0, 24, 0, 40))
    with torch.no_grad():
        alone, beside = model.predict(image, size), model.predict(larger, size)
        assert not torch.allclose(alone[0], beside[0], rtol=0, atol=1e-6)
        places = (torch.arange(10)[:, None] < 5) & (torch.arange(8) < 5)
        model.projection.register_forward_hook(lambda m, i, x: torch.where(places, x, torch.randn_like(x)))
        noisy = model.predict(larger, size)
    for first, second in zip(beside, noisy):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_all_queries_are_detections_in_pixels_of_the_image_the_surest_first(
    model: DETR, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = predictions([0.1, 0.3, 0.6], [0.6, 0.3, 0.1], [0.6, 0.3, 0.1])
    boxes = corners([0.5, 0.5, 0.5, 0.5], [0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0])
    monkeypatch.setattr(model, "predict", lambda images, sizes: (logits[None], boxes[None]))
    (found,) = model.detect(torch.zeros(1, 3, 64, 64), torch.tensor([[20, 40]]))
    assert found.labels.tolist() == [0, 0, 1]  # "no object" is no label; what is found twice stays
    assert found.scores.tolist() == pytest.approx([0.6, 0.6, 0.3])
    assert found.boxes.tolist() == [[0, 0, 10, 20], [0, 0, 10, 20], [10, 5, 30, 15]]


def test_weights_begin_as_the_paper_s_code_draws_them() -> None:
    model = build("tiny", dim=64, num_heads=4, hidden_dim=192)
    for block in (model.encoder[0].attention, model.decoder[1].cross_attention):
        assert block.query.weight.var().item() == pytest.approx(2 / (4 * 64), rel=0.1)  # of a matrix 3 * 64 x 64
        assert block.output.weight.var().item() == pytest.approx(2 / (2 * 64), rel=0.1)
        assert not block.value.bias.any() and not block.output.bias.any()
    assert model.encoder[0].feed_forward.fc1.weight.var().item() == pytest.approx(2 / (64 + 192), rel=0.1)
    assert model.queries.std().item() == pytest.approx(1, rel=0.2)


@assigned
def test_losses_are_in_fp32_under_bf16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = build("tiny")(*tiny_batch())
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_a_width_that_positions_or_heads_do_not_divide_is_refused() -> None:
    for dim, heads in ((18, 2), (16, 3)):
        with pytest.raises(ValueError, match=f"dim {dim} has to be a multiple of 4 and of num_heads {heads}"):
            build("tiny", dim=dim, num_heads=heads)


@assigned
def test_gradients_reach_every_parameter_but_those_of_the_first_self_attention() -> None:
    """Its values are zeros, so that its output is the same for all queries."""
    model = testing.randomize_norms(build("tiny")).double()
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases too: else the first norm sees zeros alone
            parameter.data += 0.3 * torch.randn_like(parameter)
    sum(model(*batch()).values()).backward()
    blind = {f"decoder.0.self_attention.{name}" for name in ("query.weight", "query.bias", "key.weight", "value.weight")}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        seen = name not in blind and not name.endswith("key.bias")  # which adds the same to all scores of a query
        assert not seen or parameter.grad.abs().max() > 1e-12, name


# ---- the recipe ----------------------------------------------------------------------------------------------------


def config(**flags: Any) -> train.Config:
    return train.Config(**{"model": "tiny", "steps": 3, "eval_every": 2, "batch_size": 3, **flags})


def test_the_backbone_has_its_own_rate_and_only_matrices_decay() -> None:
    model = build("tiny")
    optimizer = train.detr_adamw(1e-3, 0.1, 1e-2)(model)
    rates = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        rate = 1e-4 if name.startswith("backbone.") else 1e-3
        assert rates[parameter] == (pytest.approx(rate), 1e-2 if parameter.ndim > 1 else 0), name
    with pytest.raises(UserError, match="--backbone-lr has to be above 0 and at most 1"):
        config(backbone_lr=0.0)


def test_a_network_that_is_trained_from_scratch_has_live_norms() -> None:
    with without_values():
        model = train.build_model(config(model="detr"))
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


class Predictions(nn.Module):
    """Logits and boxes with a row for each image."""

    def __init__(self, model: DETR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, sizes: Tensor) -> list[Tensor]:
        return [x.transpose(0, 1) for x in self.model.predict(images, sizes)]


def small_batch() -> Batch:
    return scenes(3)


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    small_batch,
    splits=lambda _: tiny_splits(),
    task=lambda: Detection(CLASSES),
    inputs=lambda: tiny_batch()[:2],
    output=Predictions,
    overfit=[testing.Overfit({"depths": (1, 1)}, lr=1e-2, below=1.0)],
    skip={"gradients_reach_every_parameter": "the first self-attention has zeros as values: tested above by name"},
)
assigned(test_standard)
