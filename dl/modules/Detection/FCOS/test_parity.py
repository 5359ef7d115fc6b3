"""FCOS against torchvision's: outputs, losses, gradients, steps and detections with the same weights."""

import copy
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Detection.FCOS.convert import from_torchvision
from dl.modules.Detection.FCOS.model import FCOS
from dl.mytorch import testing
from dl.mytorch.introspect import count_parameters, without_values

PROTOCOL = {"score_thresh": 0.0, "topk_candidates": 40, "detections_per_img": 30}


def reference(torchvision: ModuleType, kind: str = "BasicBlock", frozen: bool = False) -> Any:
    """torchvision's FCOS on the first two stages of a ResNet, 32 channels, strides 4 to 32."""
    resnet, fpn, detection = torchvision.models.resnet, torchvision.ops.feature_pyramid_network, torchvision.models.detection
    norm = torchvision.ops.FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    block = getattr(resnet, kind)
    body = resnet.ResNet(block, [1, 1, 1, 1], norm_layer=norm)
    channels = [64 * block.expansion, 128 * block.expansion]
    layers = {"layer1": "0", "layer2": "1"}
    backbone = detection.backbone_utils.BackboneWithFPN(body, layers, channels, 32, fpn.LastLevelP6P7(32, 32))
    sizes = ((4,), (8,), (16,), (32,))
    anchors = detection.anchor_utils.AnchorGenerator(sizes, ((1.0,),) * 4)
    model = detection.FCOS(backbone, 3, anchor_generator=anchors, **PROTOCOL)
    for name, tensor in model.state_dict().items():
        if "running_var" in name:
            tensor.uniform_(0.5, 1.5)
        elif "head" in name and tensor.ndim > 1:
            nn.init.normal_(tensor, std=0.1)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.add_(0.1 * torch.randn_like(tensor))  # biases, norms, means
    return model.double()


def converted(model: nn.Module) -> FCOS:
    own = from_torchvision(model.state_dict()).double()
    own.score_threshold, own.candidates, own.max_detections = PROTOCOL.values()
    return own


def batch(height: int, width: int) -> tuple[Tensor, ...]:
    """Three padded images; the second has no box, the third is full."""
    sizes = torch.tensor([[height, width - 20], [height - 9, width], [height, width]])
    images = torch.randn(3, 3, height, width, dtype=torch.float64)
    for image, (h, w) in zip(images, sizes.tolist()):
        image[:, h:], image[:, :, w:] = 0, 0
    boxes = torch.zeros(3, 4, 4, dtype=torch.float64)
    boxes[0, :2] = torch.tensor([[3.5, 4.0, 40.0, 45.25], [10.0, 12.0, 30.0, 60.0]])
    boxes[2] = torch.tensor([[0.0, 0, width, height], [20, 20, 50, 50], [22, 18, 48, 52], [50, 30, 70, 42]])
    labels = torch.tensor([[0, 2, -1, -1], [-1, -1, -1, -1], [1, 2, 0, 1]])
    return images, sizes, boxes, labels


class Listed:
    """What torchvision's transform gives to the rest of its detector."""

    def __init__(self, images: Tensor, sizes: Tensor) -> None:
        self.tensors, self.image_sizes = images, [tuple(size) for size in sizes.tolist()]


def listed(model: Any, images: Tensor, sizes: Tensor) -> None:
    """Have torchvision's detector see `images` as they are: neither normalised, nor resized, nor padded again."""
    model.transform.forward = lambda _, targets: (Listed(images, sizes), targets)
    model.transform.postprocess = lambda found, *_: found


def theirs(model: Any, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    listed(model, images, sizes)
    real = [row >= 0 for row in labels]
    targets = [{"boxes": boxes[i][rows], "labels": labels[i][rows]} for i, rows in enumerate(real)]
    return model(list(images), targets)


PAIRS = {"class_loss": "classification", "box_loss": "bbox_regression", "centreness_loss": "bbox_ctrness"}


@pytest.mark.parametrize(
    ("height", "width", "kind", "frozen"),
    [
        (64, 96, "BasicBlock", False),
        pytest.param(96, 64, "Bottleneck", True, marks=pytest.mark.parity),
        pytest.param(70, 90, "BasicBlock", True, marks=pytest.mark.parity),
    ],
)
def test_losses_gradients_and_steps_are_torchvision_s(
    torchvision: ModuleType, height: int, width: int, kind: str, frozen: bool
) -> None:
    twin = reference(torchvision, kind, frozen).train()
    own, given = converted(twin).train(), batch(height, width)
    names = renamed_parameters(twin, own)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9) for model in (own, twin)]
    for _ in range(3):
        losses, expected = own(*given), theirs(twin, *given)
        assert losses.pop("count") > 20
        for name, other in PAIRS.items():
            torch.testing.assert_close(losses[name], expected[other], rtol=0, atol=1e-9)
        for optimizer, values in zip(optimizers, (losses, expected)):
            optimizer.zero_grad()
            sum(values.values()).backward()
        for ours, other in names:
            torch.testing.assert_close(ours.grad, other.grad, rtol=0, atol=1e-9)
        for optimizer in optimizers:
            optimizer.step()
    for ours, other in names:
        torch.testing.assert_close(ours, other, rtol=0, atol=1e-9)


def renamed_parameters(twin: nn.Module, own: FCOS) -> list[tuple[Tensor, Tensor]]:
    """Pairs of the same parameter: numbers stand in for the weights, and are converted as these are."""
    numbers = {name: torch.full_like(value, i) for i, (name, value) in enumerate(twin.state_dict().items())}
    by_number = dict(enumerate(twin.state_dict(keep_vars=True).values()))
    places = from_torchvision(numbers).state_dict()
    pairs = [(parameter, by_number[int(places[name].flatten()[0])]) for name, parameter in own.named_parameters()]
    assert len({id(other) for _, other in pairs}) == len(pairs) == sum(1 for _ in twin.parameters())
    return pairs


@pytest.mark.parametrize(
    ("height", "width", "train"),
    [(75, 50, False), *(pytest.param(64, 96, train, marks=pytest.mark.parity) for train in (False, True))],
)
def test_outputs_and_detections_are_torchvision_s(torchvision: ModuleType, height: int, width: int, train: bool) -> None:
    twin = reference(torchvision).train(train)
    own, (images, sizes, *_) = converted(twin).train(train), batch(height, width)
    with torch.no_grad():
        heads = copy.deepcopy(twin).head(list(copy.deepcopy(twin).backbone(images).values()))
        outputs, levels = copy.deepcopy(own).outputs(images)
        strides = torch.cat([level.strides for level in levels])[:, None]
        pairs = zip(outputs, (heads["cls_logits"], heads["bbox_regression"] * strides, heads["bbox_ctrness"][..., 0]))
        for ours, other in pairs:
            torch.testing.assert_close(ours, other, rtol=0, atol=1e-9)
        listed(twin.eval(), images, sizes)
        expected, found = twin(list(images)), own.eval().detect(images, sizes)
    for ours, other in zip(found, expected, strict=True):
        assert len(ours.scores) == 30 and torch.equal(ours.labels, other["labels"])
        torch.testing.assert_close(ours.boxes, other["boxes"], rtol=0, atol=1e-9)
        torch.testing.assert_close(ours.scores, other["scores"], rtol=0, atol=1e-9)


def test_a_batch_without_any_box_has_torchvision_s_loss(torchvision: ModuleType) -> None:
    twin = reference(torchvision).train()
    own, (images, sizes, boxes, labels) = converted(twin).train(), batch(64, 64)
    given = images, sizes, boxes[:, :1], labels[:, :1] * 0 - 1
    losses, expected = own(*given), theirs(twin, *given)
    assert losses["box_loss"] == losses["centreness_loss"] == 0 and losses["count"] == 1
    torch.testing.assert_close(losses["class_loss"], expected["classification"], rtol=0, atol=1e-9)
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in own.parameters())


@pytest.mark.parity
def test_torchvision_s_published_network_is_ours(torchvision: ModuleType) -> None:
    detection = torchvision.models.detection
    with without_values():
        assert count_parameters(FCOS(backbone={"frozen": True})) == 32_269_600
    twin = detection.fcos_resnet50_fpn(weights=None, weights_backbone=None, **PROTOCOL).eval()
    twin = testing.randomize_norms(twin).double()  # weights are single, as in files
    old = {name.replace("_blocks.0.0.", "_blocks.0."): value for name, value in twin.state_dict().items()}  # before version 2
    own = converted(twin)
    assert all(
        torch.equal(value, own.state_dict()[name]) for name, value in from_torchvision(old).double().state_dict().items()
    )
    images, sizes, *_ = batch(96, 160)
    listed(twin, images, sizes)
    with torch.no_grad():
        expected, found = twin(list(images)), own.eval().detect(images, sizes)
    for ours, other in zip(found, expected, strict=True):
        assert torch.equal(ours.labels, other["labels"])
        torch.testing.assert_close(ours.boxes, other["boxes"], rtol=0, atol=1e-9)
