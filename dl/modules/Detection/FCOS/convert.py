"""Pretrained weights for our FCOS: torchvision's for COCO."""

import re

from torch import Tensor, nn

from dl.modules.CNN.ResNet.convert import renamed
from dl.modules.Detection.FCOS.model import FCOS, build
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_torchvision

# Their names as regular expressions, and ours; those of the ResNet follow. Old weights lack the second number of the pyramid.
NAMES = (
    (r"^backbone\.fpn\.inner_blocks\.(\d+)(\.0)?\.", r"pyramid.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d+)(\.0)?\.", r"pyramid.output.\1."),
    (r"^backbone\.fpn\.extra_blocks\.", "pyramid."),
    (r"^head\.classification_head\.conv\.", "heads.class_tower."),
    (r"^head\.regression_head\.conv\.", "heads.box_tower."),
    (r"^head\.classification_head\.cls_logits\.", "heads.logits."),
    (r"^head\.regression_head\.bbox_reg\.", "heads.distances."),
    (r"^head\.regression_head\.bbox_ctrness\.", "heads.centreness."),
)


def from_torchvision(state: dict[str, Tensor]) -> FCOS:
    """Return our network with the weights of a state dict of `torchvision.models.detection.fcos_resnet50_fpn`.

    Class i of theirs is class i of ours; of the weights for COCO, 0 is never found. Norms are frozen as in pretrained weights,
    or batch norms if the state counts batches. The backbone may be any ResNet of basic blocks or bottlenecks. Images have to be
    normalised by the mean and std of ImageNet and shrunk to sides of at least 800 and at most 1,333 pixels, as for theirs.
    """
    body = {name.removeprefix("backbone.body."): weight for name, weight in state.items() if name.startswith("backbone.body.")}
    depths = tuple(_numbers(body, rf"layer{i}\.") for i in range(1, 5) if f"layer{i}.0.conv1.weight" in body)
    counted = any(name.endswith("num_batches_tracked") for name in body)
    levels = _numbers(state, r"backbone\.fpn\.inner_blocks\.")
    model = build(
        "fcos",
        num_classes=len(state["head.classification_head.cls_logits.bias"]),
        channels=len(state["head.classification_head.conv.0.bias"]),
        extra="p6p7" if "backbone.fpn.extra_blocks.p6.weight" in state else "none",
        backbone={
            "preset": "resnet50" if "layer1.0.conv3.weight" in body else "resnet18",
            "depths": depths,
            "stages": tuple(range(1, len(depths) + 1))[-levels:],
            "frozen": not counted,
        },
    )
    weights = {f"backbone.{name}": weight for name, weight in renamed(body, depths).items()}
    for name, weight in state.items():
        if not name.startswith("backbone.body."):
            weights[re.sub(r"tower\.(\d+)", _layer, substituted(name, NAMES))] = weight
    model.load_state_dict(weights)
    return model


def _numbers(state: dict[str, Tensor], prefix: str) -> int:
    """Return how many numbers follow `prefix`, a regular expression, in the names."""
    return len({place[1] for name in state if (place := re.match(rf"{prefix}(\d+)\.", name))})


def _layer(place: re.Match[str]) -> str:
    """Return our name of a layer of a tower: convolutions, norms and activations take turns."""
    number = int(place[1])
    return f"tower.{('conv', 'norm')[number % 3]}{number // 3 + 1}"


def to_torchvision(model: FCOS) -> nn.Module:
    """Return a `torchvision.models.detection.fcos_resnet50_fpn` with the weights of an FCOS of ours.

    The inverse of `from_torchvision`. Raises `ValueError` for another network than the preset "fcos".
    """
    if model.grid != "torchvision":
        raise ValueError(f'locations of the grid "{model.grid}" are not in the class')
    build_theirs = import_torchvision().models.detection.fcos_resnet50_fpn
    reference = build_theirs(weights=None, weights_backbone=None, num_classes=model.heads.logits.out_channels)
    return inverse(lambda theirs: from_torchvision(theirs.state_dict()), reference, model)
