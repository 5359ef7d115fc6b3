"""torchvision's networks as ours: same maps, proposals, classes and boxes, of weights old and new."""

from types import ModuleType

import pytest
import torch
from torch import nn

from dl.modules.Detection.backbone import FrozenNorm
from dl.modules.Detection.FasterRCNN.convert import from_torchvision, renamed_head
from dl.mytorch.introspect import count_parameters


def theirs(torchvision: ModuleType, name: str, frozen: bool) -> nn.Module:
    """Return their network for 4 classes with random weights and statistics."""
    detection = torchvision.models.detection
    norm = torchvision.ops.misc.FrozenBatchNorm2d if frozen else nn.BatchNorm2d
    body = torchvision.models.resnet50(weights=None, norm_layer=norm)
    backbone = detection.backbone_utils._resnet_fpn_extractor(body, 5)
    model = getattr(detection, name)(backbone, 5, box_score_thresh=0.15, image_mean=[0.0] * 3, image_std=[1.0] * 3, min_size=96)
    for module in model.modules():
        if isinstance(module, norm):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.2, 0.4)
    if frozen:
        detection._utils.overwrite_eps(model, 0.0)
    nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight, std=0.2)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("name", "frozen"), [("FasterRCNN", False), ("MaskRCNN", True)])
def test_torchvision_s_networks_find_the_same_here(torchvision: ModuleType, name: str, frozen: bool) -> None:
    reference = theirs(torchvision, name, frozen).double().eval()
    model = from_torchvision(reference.state_dict()).double().eval()
    assert count_parameters(model) == sum(parameter.numel() for parameter in reference.parameters())
    assert {module.eps for module in model.modules() if isinstance(module, FrozenNorm)} == ({0.0} if frozen else set())
    images = torch.randn(2, 3, 96, 128, dtype=torch.float64)
    found = model.detect(images, torch.tensor([[96, 128]] * 2))
    with torch.no_grad():
        expected = reference(list(images))
    for own, other in zip(found, expected, strict=True):
        assert len(own.boxes) > 2
        torch.testing.assert_close(own.boxes, other["boxes"], rtol=0, atol=1e-8)
        torch.testing.assert_close(own.scores, other["scores"], rtol=0, atol=1e-9)
        assert torch.equal(own.labels + 1, other["labels"])
        assert own.masks is None or torch.equal(own.masks, other["masks"][:, 0] > 0.5)


@pytest.mark.parametrize(
    ("old", "new", "ours"),
    [
        ("backbone.fpn.inner_blocks.3.bias", "backbone.fpn.inner_blocks.3.0.bias", "fpn.lateral.3.bias"),
        ("backbone.fpn.layer_blocks.0.weight", "backbone.fpn.layer_blocks.0.0.weight", "fpn.output.0.weight"),
        ("rpn.head.conv.weight", "rpn.head.conv.0.0.weight", "proposals.conv.weight"),
        ("roi_heads.mask_head.mask_fcn1.bias", "roi_heads.mask_head.0.0.bias", "mask_head.conv1.bias"),
        ("roi_heads.mask_head.mask_fcn4.weight", "roi_heads.mask_head.3.0.weight", "mask_head.conv4.weight"),
    ],
)
def test_weights_have_the_names_of_two_versions(old: str, new: str, ours: str) -> None:
    """Those that torchvision offers for download have the old ones."""
    assert renamed_head(old) == renamed_head(new) == ours
