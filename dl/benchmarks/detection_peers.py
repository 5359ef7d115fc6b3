"""What `dl.benchmarks.detection` measures beside ours: torchvision's detectors, pycocotools, and suppression box by box."""

import contextlib
import io
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn

from dl.modules.Detection.metrics import Truth
from dl.mytorch.data import Batch
from dl.mytorch.layers.boxes import Detections, iou


def backbone(layers: Sequence[int], channels: Sequence[int], pool: bool) -> nn.Module:
    """Return torchvision's ResNet-18 with a pyramid of 64 channels."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.models.resnet import resnet18
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    made = BackboneWithFPN(
        resnet18(), {f"layer{i}": str(place) for place, i in enumerate(layers)}, list(channels), 64, LastLevelMaxPool()
    )
    made.fpn.extra_blocks = made.fpn.extra_blocks if pool else None
    return made


def fcos(num_classes: int) -> nn.Module:
    """Return torchvision's FCOS on three maps."""
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    anchors = AnchorGenerator(((8,), (16,), (32,)), ((1.0,),) * 3)
    return FCOS(backbone((2, 3, 4), (128, 256, 512), pool=False), num_classes, anchor_generator=anchors)


def faster(num_classes: int) -> nn.Module:
    """torchvision's network with the options of our preset "small"."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    return FasterRCNN(
        backbone((1, 2, 3, 4), (64, 128, 256, 512), pool=True),
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=300,
        rpn_batch_size_per_image=128,
        box_batch_size_per_image=128,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=112),
        box_head=TwoMLPHead(64 * 7**2, 256),
        box_predictor=FastRCNNPredictor(256, 1 + num_classes),
    )


class Listed:
    """What torchvision's transform gives to the rest of its detector."""

    def __init__(self, images: Tensor) -> None:
        self.tensors, self.image_sizes = images, [tuple(images.shape[-2:])] * len(images)


def losses(model: Any, data: Batch, first: int) -> Callable[[], dict[str, Tensor]]:
    """Return the forward pass of a detector of torchvision whose classes begin with `first`, on images as they are."""
    real = data["labels"] >= 0
    parts = zip(data["boxes"], data["labels"], real)
    targets = [{"boxes": boxes[rows], "labels": labels[rows] + first} for boxes, labels, rows in parts]
    model.transform.forward = lambda images, given: (Listed(data["images"]), given)
    return lambda: model(list(data["images"]), targets)


def loop(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return what `nms` does, box by box."""
    order, kept = scores.argsort(descending=True, stable=True), []
    while len(order):
        kept.append(order[0])
        order = order[1:][~(iou(boxes[order[:1]], boxes[order[1:]])[0] > threshold)]
    return torch.stack(kept)


def mean_ap(data: Sequence[tuple[Detections, Truth]], num_classes: int) -> Callable[[], float]:
    """Return pycocotools' evaluation; the lists of its format are made before."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def listed(boxes: Tensor, labels: Tensor, image: int) -> list[dict[str, Any]]:
        sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
        return [{"image_id": image, "category_id": k, "bbox": box} for box, k in zip(sides, labels.tolist())]

    results, annotations = [], []
    for i, (found, truth) in enumerate(data):
        rows = zip(listed(found.boxes, found.labels, i), found.scores.tolist())
        results += [row | {"score": score} for row, score in rows]
        annotations += [row | {"area": size} for row, size in zip(listed(truth.boxes, truth.labels, i), truth.areas.tolist())]
    annotations = [row | {"id": i + 1, "iscrowd": 0} for i, row in enumerate(annotations)]
    known = {"images": [{"id": i} for i in range(len(data))], "categories": [{"id": k} for k in range(num_classes)], "info": {}}

    def evaluate() -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = known | {"annotations": annotations}
            coco.createIndex()
            judge = COCOeval(coco, coco.loadRes([dict(row) for row in results]), "bbox")
            judge.params.areaRng, judge.params.areaRngLbl, judge.params.maxDets = [[0, 1e10]], ["all"], [100]
            judge.evaluate()
            judge.accumulate()
        return float(judge.eval["precision"].mean())

    return evaluate
