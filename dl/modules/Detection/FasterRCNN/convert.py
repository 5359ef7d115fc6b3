"""Pretrained weights for our Faster and Mask R-CNN: torchvision's for COCO."""

import re

from torch import Tensor

from dl.modules.CNN.ResNet.convert import renamed
from dl.modules.Detection.FasterRCNN.model import FasterRCNN, build
from dl.mytorch.names import substituted

# Their names as regular expressions, and ours; those of the ResNet follow. Old weights lack some of the numbers.
NAMES = (
    (r"^backbone\.fpn\.inner_blocks\.(\d+)(\.0)?\.", r"fpn.lateral.\1."),
    (r"^backbone\.fpn\.layer_blocks\.(\d+)(\.0)?\.", r"fpn.output.\1."),
    (r"^rpn\.head\.conv(\.0\.0)?\.", "proposals.conv."),
    (r"^rpn\.head\.cls_logits\.", "proposals.objectness."),
    (r"^rpn\.head\.bbox_pred\.", "proposals.deltas."),
    (r"^roi_heads\.box_head\.fc6\.", "box_head.fc1."),
    (r"^roi_heads\.box_head\.fc7\.", "box_head.fc2."),
    (r"^roi_heads\.box_predictor\.cls_score\.", "box_head.logits."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "box_head.deltas."),
    (r"^roi_heads\.mask_predictor\.conv5_mask\.", "mask_head.up."),
    (r"^roi_heads\.mask_predictor\.mask_fcn_logits\.", "mask_head.logits."),
)


def from_torchvision(state: dict[str, Tensor], eps: float = 0.0) -> FasterRCNN:
    """Return our network with a state dict of torchvision's `fasterrcnn_resnet50_fpn` or `maskrcnn_resnet50_fpn`.

    Class i of theirs is class i - 1 of ours: 0 is their background. Norms are frozen as in pretrained weights, or batch norms
    if the state counts batches. The weights "COCO_V1" were trained with an `eps` of 0 in frozen norms, others with 1e-5. Images
    have to be normalised by the mean and std of ImageNet, and shrunk to sides of at least 800 and at most 1,333 pixels.
    """
    body = {name.removeprefix("backbone.body."): weight for name, weight in state.items() if name.startswith("backbone.body.")}
    frozen = not any(name.endswith("num_batches_tracked") for name in body)
    masks = any(name.startswith("roi_heads.mask_head.") for name in state)
    model = build(
        "maskrcnn" if masks else "fasterrcnn",
        num_classes=len(state["roi_heads.box_predictor.cls_score.bias"]) - 1,
        resnet={"preset": "resnet50", "frozen": frozen, "eps": eps},
    )
    weights = {f"features.{name}": weight for name, weight in renamed(body, (3, 4, 6, 3)).items()}
    for name, weight in state.items():
        if not name.startswith("backbone.body."):
            weights[renamed_head(name)] = weight
    model.load_state_dict(weights)
    return model


def renamed_head(name: str) -> str:
    """Return our name of a weight outside of the ResNet."""
    # Convolutions of the mask head are 0.0, 1.0 ..., in old weights mask_fcn1, mask_fcn2 ...
    place = re.match(r"roi_heads\.mask_head\.(mask_fcn)?(\d+)\.(0\.)?", name)
    if place:
        return f"mask_head.conv{int(place[2]) + (not place[1])}.{name[place.end() :]}"
    return substituted(name, NAMES)
