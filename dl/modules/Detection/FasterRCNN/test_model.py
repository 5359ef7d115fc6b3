"""Faster and Mask R-CNN beside torchvision's: losses, gradients, steps, detections; what is refused; and through the recipe."""

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Detection.FasterRCNN import train
from dl.modules.Detection.FasterRCNN.model import FasterRCNN, build, example
from dl.modules.Detection.task import Detection
from dl.modules.Detection.testing import CLASSES, scenes, tiny_batch, tiny_splits
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters, without_values

ALL = {"anchor_samples": 10**6, "box_samples": 10**6, "box_fraction": 0.5}  # no draw decides anything


def test_parameters_are_those_of_torchvision_s_networks() -> None:
    with without_values():
        model = build("maskrcnn")
        assert count_parameters(model) == 44_401_393
        assert count_parameters(model) - count_parameters(model.mask_head) == 41_755_286


class Pyramid(nn.Module):
    """Our maps as torchvision's detectors ask for them."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.features, self.fpn = copy.deepcopy(model.features), copy.deepcopy(model.fpn)
        self.out_channels = model.fpn.output[0].out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {str(i): x for i, x in enumerate(self.fpn(self.features(images)))}


def torchvision_twin(model: FasterRCNN, options: dict[str, Any]) -> nn.Module:
    """Return torchvision's network of the preset "tiny" with `model`'s weights, which computes in the type of its input."""
    from torchvision.models.detection import FasterRCNN as Faster
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    def pooling(side: int) -> nn.Module:
        return MultiScaleRoIAlign(["0", "1"], side, 2, canonical_scale=32, canonical_level=4)

    masks = {} if model.mask_head is None else {"mask_roi_pool": pooling(14), "mask_head": MaskRCNNHeads(8, (8,), 1)}
    masks |= {"mask_predictor": MaskRCNNPredictor(8, 8, 3)} if masks else {}
    twin = (MaskRCNN if masks else Faster)(
        Pyramid(model),
        None,
        min_size=32,
        max_size=64,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(((8,), (16,), (32,)), ((0.5, 1.0, 2.0),) * 3),
        rpn_pre_nms_top_n_train=60,
        rpn_post_nms_top_n_train=40,
        rpn_pre_nms_top_n_test=30,
        rpn_post_nms_top_n_test=20,
        rpn_batch_size_per_image=options.get("anchor_samples", 256),
        box_batch_size_per_image=options.get("box_samples", 512),
        box_positive_fraction=options.get("box_fraction", 0.25),
        box_score_thresh=model.score,
        box_detections_per_img=20,
        box_roi_pool=pooling(7),
        box_head=TwoMLPHead(8 * 49, 16),
        box_predictor=FastRCNNPredictor(16, 3),
        **masks,
    )
    heads = [(model.proposals, twin.rpn.head), (model.box_head, nn.ModuleList([twin.roi_heads.box_head]))]
    heads[1][1].append(twin.roi_heads.box_predictor)
    if masks:
        heads.append((model.mask_head, nn.ModuleList([twin.roi_heads.mask_head, twin.roi_heads.mask_predictor])))
    for ours, theirs in heads:
        for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.data.copy_(own.data)
    assign = twin.rpn.assign_targets_to_anchors

    def in_their_type(anchors: list[Tensor], targets: Any) -> Any:  # its labels are float32
        return [[part.to(anchors[0].dtype) for part in parts] for parts in assign(anchors, targets)]

    twin.rpn.assign_targets_to_anchors = in_their_type
    return twin


def targets_of(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return boxes, labels and masks as torchvision takes them: a dict for each image, without padding; 0 is background."""
    targets = []
    for boxes, labels, masks in zip(batch["boxes"].double(), batch["labels"], batch["masks"]):
        real = labels >= 0
        targets.append({"boxes": boxes[real], "labels": labels[real] + 1, "masks": masks[real].byte()})
    return targets


class Losses(nn.Module):
    """Our network's losses for one batch, as a function of its images; draws start from one seed."""

    def __init__(self, model: FasterRCNN, batch: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        masks = (self.batch["masks"],) if self.model.mask_head is not None else ()
        return self.model(images, self.batch["sizes"], self.batch["boxes"].to(images.dtype), self.batch["labels"], *masks)


class TheirLosses(nn.Module):
    """torchvision's, past the resize; backbones in evaluation mode are no reason for it to have no losses."""

    def __init__(self, twin: nn.Module, batch: dict[str, Tensor]) -> None:
        super().__init__()
        self.twin, self.batch = twin, batch

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        from torchvision.models.detection.image_list import ImageList

        self.twin.rpn.training = self.twin.roi_heads.training = True
        sizes = [tuple(size) for size in self.batch["sizes"].tolist()]
        targets = targets_of(self.batch)
        maps = self.twin.backbone(images)
        proposals, losses = self.twin.rpn(ImageList(images, sizes), maps, targets)
        losses |= self.twin.roi_heads(maps, proposals, sizes, targets)[1]
        order = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask")
        return {name: losses[name] for name in order if name in losses}


def network(**options: Any) -> FasterRCNN:
    """Return a tiny network whose weights are large enough that its boxes and masks differ from the anchors."""
    model = testing.randomize_norms(build("tiny", num_classes=2, **options))
    for module in (model.proposals.objectness, model.proposals.deltas, model.box_head.logits, model.box_head.deltas):
        nn.init.normal_(module.weight, std=0.2)
    return model


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("mask_channels", "train"),
    [(8, True), pytest.param(8, False, marks=slow), pytest.param(0, True, marks=slow), pytest.param(0, False, marks=slow)],
)
def test_losses_gradients_and_steps_are_torchvision_s(torchvision: ModuleType, mask_channels: int, train: bool) -> None:
    """Three images of three sizes, the second without a box."""
    batch = scenes(masks=True)
    model = network(mask_channels=mask_channels, **ALL)
    twin = torchvision_twin(model, ALL)
    testing.assert_same_as(Losses(model, batch), TheirLosses(twin, batch), batch["images"], train=train)


def test_the_same_seed_draws_the_same_samples_as_torchvision(torchvision: ModuleType) -> None:
    batch, options = scenes(masks=True), {"anchor_samples": 20, "box_samples": 12}
    model = network(**options)
    testing.assert_same_as(Losses(model, batch), TheirLosses(torchvision_twin(model, options), batch), batch["images"])


@pytest.mark.parametrize("mask_channels", [0, 8])
def test_detections_are_torchvision_s(torchvision: ModuleType, mask_channels: int) -> None:
    """Through its own transform: images of 32 pixels or more on the shorter side are not resized."""
    model = network(mask_channels=mask_channels, score=0.2)
    twin = torchvision_twin(model, {}).double().eval()
    images = [torch.randn(3, *size, dtype=torch.float64) for size in ((32, 48), (56, 32), (32, 40))]
    expected = twin(images)
    padded = torch.stack([nn.functional.pad(x, (0, 64 - x.shape[2], 0, 64 - x.shape[1])) for x in images])
    found = model.double().eval().detect(padded, torch.tensor([x.shape[1:] for x in images]))
    assert sum(len(each.boxes) for each in found) > 10
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.boxes, other["boxes"], rtol=0, atol=1e-9)
        torch.testing.assert_close(own.scores, other["scores"], rtol=0, atol=1e-9)
        assert torch.equal(own.labels + 1, other["labels"])
        if mask_channels:
            assert torch.equal(own.masks, other["masks"][:, 0] > 0.5) and own.masks.any()
        else:
            assert own.masks is None


def test_images_of_other_sizes_are_found_as_torchvision_does_past_its_resize(torchvision: ModuleType) -> None:
    model = network(mask_channels=0, score=0.2)
    twin = torchvision_twin(model, {}).double().eval()
    images = [torch.randn(3, *size, dtype=torch.float64) for size in ((47, 33), (60, 40))]
    seen, _ = twin.transform(images)
    assert seen.image_sizes == [(45, 32), (48, 32)] and seen.tensors.shape[2:] == (64, 32)
    maps = twin.backbone(seen.tensors)
    expected, _ = twin.roi_heads(maps, twin.rpn(seen, maps)[0], seen.image_sizes)
    found = model.double().eval().detect(seen.tensors, torch.tensor(seen.image_sizes))
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own.boxes, other["boxes"], rtol=0, atol=1e-9)
        assert torch.equal(own.labels + 1, other["labels"]) and len(own.labels) > 2


def test_a_batch_without_any_box_has_finite_losses_and_trains_the_background() -> None:
    """https://github.com/pytorch/vision/issues/2144: a box of zeros stood for "no object", and the loss was NaN."""
    images, sizes, boxes, labels, masks = tiny_batch(masks=True)
    model = network()
    losses = model(images, sizes, boxes * 0, torch.full_like(labels, -1), masks & False)
    assert losses["proposal_loss"] == losses["box_loss"] == losses["mask_loss"] == 0
    assert losses["objectness_loss"] > 0 and losses["class_loss"] > 0
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_padding_rows_and_the_order_of_boxes_change_no_loss() -> None:
    batch = {name: x.double() if x.is_floating_point() else x for name, x in scenes(masks=True).items()}
    model = network(**ALL).double()
    expected = Losses(model, batch)(batch["images"])
    rows = torch.tensor([2, 1, 0, 0])
    other = {**batch, **{name: batch[name][:, rows] for name in ("boxes", "labels", "masks")}}
    other["labels"][:, 3] = -1
    for name, loss in Losses(model, other)(batch["images"]).items():
        assert loss.item() == pytest.approx(expected[name].item(), abs=1e-9), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[[4.0, 4, 4, 20]]])}, r"box \[4.0, 4.0, 4.0, 20.0\] has no area"),
        ({"labels": torch.tensor([[2]])}, "label 2: the classes are 0 to 1, without background"),
        ({"masks": None}, "trained on masks"),
    ],
)
def test_what_cannot_be_learnt_is_refused(change: dict[str, Tensor], message: str) -> None:
    """https://github.com/pytorch/vision/issues/2235, and /1952: labels from 0, where 0 was the background, found nothing."""
    inputs = dict(zip(("images", "sizes", "boxes", "labels", "masks"), example("tiny")))
    with pytest.raises(ValueError, match=message):
        build("tiny", num_classes=2)(**{**inputs, **change})


def test_the_first_class_is_0_and_found() -> None:
    model = network(score=0.5)
    with torch.no_grad():
        model.box_head.logits.bias.copy_(torch.tensor([0.0, 9.0, 0.0]))
    found = model.eval().detect(*tiny_batch()[:2])
    assert all(len(each.labels) and not each.labels.any() for each in found)


def test_boxes_and_masks_end_at_the_real_size_of_their_image() -> None:
    images, sizes, *_ = tiny_batch()
    for found, (height, width) in zip(network(score=0.0).eval().detect(images, sizes), sizes.tolist()):
        assert found.masks.shape == (len(found.boxes), height, width)
        assert found.boxes[:, 0::2].max() <= width and found.boxes[:, 1::2].max() <= height and found.boxes.min() >= 0
        assert (found.scores.diff() <= 0).all()


def test_the_box_loss_trains_the_deltas_of_the_object_s_class() -> None:
    """https://github.com/MIC-DKFZ/medicaldetectiontoolkit/issues/59: it was taken for class 1 alone."""
    images, sizes, boxes, labels, masks = tiny_batch(masks=True)
    model = network()
    model(images, sizes, boxes, torch.where(labels < 0, -1, 1), masks)["box_loss"].backward()
    of_classes = model.box_head.deltas.weight.grad.view(3, 4, -1).abs().amax((1, 2))
    assert of_classes[:2].tolist() == [0, 0] and of_classes[2] > 0


class Heard(nn.Module):
    """What is said of the anchors and of fixed boxes, with a row for each image."""

    def __init__(self, model: FasterRCNN) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.fpn(self.model.features(images))
        box = torch.tensor([[3.0, 4.0, 30.0, 40.0]], dtype=images.dtype)
        outputs = self.model._box_outputs(maps, [box] * len(images))
        masks = self.model._mask_logits(maps, [box] * len(images), torch.ones(len(images), dtype=torch.long))
        return *self.model.proposals(maps)[:2], *outputs, masks


def config(**flags: Any) -> train.Config:
    return train.Config(**{"model": "tiny", "data": "scenes", "steps": 3, "eval_every": 2, "batch_size": 3, **flags})


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    lambda: scenes(masks=True),
    splits=lambda _: tiny_splits(masks=True),
    task=lambda: Detection(CLASSES, masks=True),
    output=Heard,
    overfit=[testing.Overfit({"num_classes": 2, "mask_channels": 16}, lr=1e-2, below=0.7)],
)


def test_a_run_has_masks_where_the_set_and_the_flag_have_them() -> None:
    assert train.build_model(config()).mask_head is not None
    assert train.build_model(config(masks=False)).mask_head is None
    assert not any("Frozen" in type(module).__name__ for module in train.build_model(config()).modules())
