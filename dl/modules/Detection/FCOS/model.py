"""FCOS.

"FCOS: Fully Convolutional One-Stage Object Detection", Zhi Tian, Chunhua Shen, Hao Chen, Tong He, 2019,
https://arxiv.org/abs/1904.01355, section 3 and figure 2.

A detector without anchors: each location of the feature maps says of which class the object around it is, how far away the four
sides of its box are, and how near the centre of the box it lies.

"fcos" is torchvision's network, ResNet-50 with frozen norms and five levels; its norms need pretrained weights, see convert.py.
"small" is ours for a CPU, from scratch: a ResNet-18 of half the width, three levels of 64 channels, towers of two layers.
"tiny" is for tests.

Deviations, all as in torchvision, whose weights need them:
- Distances are relu(x) times the stride of the level, for the paper's exp(s_i x) with a scale s_i for each level to be learnt.
- Centre-ness is read from the branch of the boxes, for the paper's that of the classes (the authors' later version does so).
- Positive are the locations of a box that are less than 1.5 strides from its centre (the authors' later "centre sampling").
- The loss of boxes is GIoU, for the paper's -log IoU (the authors' later version).
- A score is the square root of class probability times centre-ness: the order is the same, thresholds are others.
- A level takes boxes whose largest distance lies strictly between its limits; the paper includes the limits.
- In "fcos" locations are the corners of the cells, and their step is image side // map side, which is not the stride where the
  sides do not divide (`grid="torchvision"`). "small" has the paper's: floor(stride / 2) + i stride.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Detection.backbone import FPN, ResNetFeatures
from dl.mytorch.layers import sequential
from dl.mytorch.layers.boxes import Detections, area, clip, generalized_iou, nms

# B batch, C channels, H height, W width, K classes, L locations on all levels, N boxes of an image, P positive locations


class Locations(NamedTuple):
    """Where the maps look in the image, level by level, rows first."""

    points: Tensor  # (L, 2): x, y in pixels
    strides: Tensor  # (L,)
    lowest: Tensor  # (L,): a box is the level's if the largest distance to its sides is more than this
    highest: Tensor  # (L,): and less than this


class Outputs(NamedTuple):
    """What the heads say of each location."""

    logits: Tensor  # (B, L, K)
    distances: Tensor  # (B, L, 4): from the left, upper, right and lower side of the box, in pixels
    centreness: Tensor  # (B, L), logits


def locate(maps: list[Tensor], strides: list[int], images: Tensor, grid: str) -> list[Locations]:
    """Return the locations of each of the maps (B, C, H, W) of `images`, in single precision at least; sections 3.1 and 3.2."""
    height, width = images.shape[-2:]
    real = {"dtype": torch.promote_types(images.dtype, torch.float32), "device": images.device}
    levels = []
    for x, stride in zip(maps, strides, strict=True):
        rows, columns = x.shape[-2:]
        steps, first = ((stride, stride), stride // 2) if grid == "paper" else ((height // rows, width // columns), 0)
        ys = torch.arange(rows, **real) * steps[0] + first
        xs = torch.arange(columns, **real) * steps[1] + first
        points = torch.stack([xs.expand(rows, -1), ys[:, None].expand(-1, columns)], dim=-1).flatten(0, 1)  # (H W, 2)
        lowest = 0 if stride == strides[0] else 4 * stride  # 64 and 128 pixels for the stride 16
        highest = math.inf if stride == strides[-1] else 8 * stride
        levels.append(Locations(points, *(points.new_full((len(points),), n) for n in (stride, lowest, highest))))
    return levels


def boxes_at(points: Tensor, distances: Tensor) -> Tensor:
    """Return boxes (..., 4) whose left, upper, right and lower sides have distances (..., 4) from points (..., 2)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def distances_to(boxes: Tensor, points: Tensor) -> Tensor:
    """Equation 1: return the distances (..., 4) of points (..., 2) from the left, upper, right and lower sides of boxes."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def assign(at: Locations, boxes: Tensor, labels: Tensor, radius: float) -> Tensor:
    """Return which of the boxes (B, N, 4) each location has to find: rows (B, L), -1 = none. Section 3.1 and 3.2.

    It lies in the box, less than `radius` strides from its centre in x and in y, and the box is of the level's size. The
    smallest of several boxes wins. Boxes of the label -1 are padding.
    """
    points = at.points[:, None]  # (L, 1, 2)
    distances = distances_to(boxes[:, None], points)  # (B, L, N, 4)
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2  # (B, N, 2)
    near = (points - centres[:, None]).abs().amax(-1) < radius * at.strides[:, None]  # (B, L, N)
    farthest = distances.amax(-1)
    of_level = (farthest > at.lowest[:, None]) & (farthest < at.highest[:, None])
    match = near & of_level & (distances.amin(-1) > 0) & (labels >= 0)[:, None]
    smallest, rows = area(boxes)[:, None].where(match, math.inf).min(-1)  # of equal ones the first
    return rows.where(smallest < math.inf, -1)


def centreness_of(distances: Tensor) -> Tensor:
    """Equation 3, of distances (..., 4) to the left, upper, right and lower side: 1 in the centre, 0 at the sides."""
    left, top, right, bottom = distances.unbind(-1)
    ratios = torch.minimum(left, right) / torch.maximum(left, right) * torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return ratios.sqrt()


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of logits for targets, bools: Lin et al. 2017, https://arxiv.org/abs/1708.02002, equation 5."""
    wrong = torch.where(targets, -logits, logits)  # the logit of the opposite of the target
    return torch.where(targets, alpha, 1 - alpha) * wrong.sigmoid() ** gamma * -F.logsigmoid(-wrong)


def tower(channels: int, depth: int, groups: int) -> nn.Sequential:
    """Return `depth` 3x3 convolutions, each with a group norm and a ReLU."""
    layers: dict[str, nn.Module] = {}
    for i in range(1, depth + 1):
        layers[f"conv{i}"] = nn.Conv2d(channels, channels, 3, padding=1)
        layers[f"norm{i}"] = nn.GroupNorm(groups, channels)
        layers[f"act{i}"] = nn.ReLU()
    return sequential(**layers)


class Heads(nn.Module):
    """Figure 2: two towers and three outputs, the same for all levels.

    forward: [(B, channels, H, W)] -> `Outputs`, its distances in strides of the level.
    """

    def __init__(self, channels: int, num_classes: int, depth: int, groups: int, prior: float = 0.01) -> None:
        super().__init__()
        self.class_tower = tower(channels, depth, groups)
        self.logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_tower = tower(channels, depth, groups)
        self.distances = nn.Conv2d(channels, 4, 3, padding=1)
        self.positive = nn.ReLU()
        self.centreness = nn.Conv2d(channels, 1, 3, padding=1)
        self.init_weights(prior)

    def init_weights(self, prior: float) -> None:
        """Convolutions are normal with std 0.01; biases are 0, those of the classes such that each has the probability `prior`.

        Without the latter the loss of the many locations without an object would drown all others (focal loss, section 3.3).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.logits.bias, -math.log((1 - prior) / prior))

    def forward(self, maps: list[Tensor]) -> Outputs:
        levels = []
        for x in maps:
            classes, boxes = self.class_tower(x), self.box_tower(x)
            outputs = self.logits(classes), self.positive(self.distances(boxes)), self.centreness(boxes)
            levels.append([output.flatten(2).transpose(1, 2) for output in outputs])  # (B, C, H, W) -> (B, H W, C)
        logits, distances, centreness = (torch.cat(parts, dim=1) for parts in zip(*levels))
        return Outputs(logits, distances, centreness.squeeze(-1))


class FCOS(nn.Module):
    """forward: images (B, in_channels, H, W), their sizes, boxes (B, N, 4), labels (B, N) -> losses; `detect` -> boxes.

    Args:
        backbone: arguments of `ResNetFeatures`.
        channels: of the pyramid and of the heads.
        extra: levels beyond those of the backbone, see `FPN`.
        depth: convolutions of each head's tower.
        groups: of their group norms.
        grid: where locations are, "paper" or "torchvision", see above.
        radius: of the centre of a box in strides; locations beyond are negative.
        score_threshold, candidates, nms_threshold, max_detections: `detect` takes up to `candidates` scores above the threshold
            from each level, drops those that a better box of the class overlaps by more than the IoU, and returns the best.
    """

    def __init__(
        self,
        num_classes: int = 91,
        in_channels: int = 3,
        backbone: dict[str, Any] | None = None,
        channels: int = 256,
        extra: str = "p6p7",
        depth: int = 4,
        groups: int = 32,
        grid: str = "paper",
        radius: float = 1.5,
        score_threshold: float = 0.05,
        candidates: int = 1000,
        nms_threshold: float = 0.6,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        if grid not in ("paper", "torchvision"):
            raise ValueError(f'grid {grid!r} is one of "paper" and "torchvision"')
        self.backbone = ResNetFeatures(**{"in_channels": in_channels, **(backbone or {})})
        self.pyramid = FPN(self.backbone.channels, channels, extra)
        self.heads = Heads(channels, num_classes, depth, groups)
        coarsest = self.backbone.strides[-1]
        self.strides = [*self.backbone.strides, *(coarsest * 2 ** (i + 1) for i in range(FPN.EXTRA[extra]))]
        self.grid, self.radius = grid, radius
        self.score_threshold, self.candidates = score_threshold, candidates
        self.nms_threshold, self.max_detections = nms_threshold, max_detections

    def outputs(self, images: Tensor) -> tuple[Outputs, list[Locations]]:
        """Return what the heads say of images (B, C, H, W), in single precision at least, and the locations of each level."""
        maps = self.pyramid(self.backbone(images))
        levels = locate(maps, self.strides, images, self.grid)
        logits, distances, centreness = self.heads(maps)
        strides = torch.cat([level.strides for level in levels])  # (L,)
        outputs = logits, distances * strides[:, None], centreness
        return Outputs(*(x.to(torch.promote_types(x.dtype, torch.float32)) for x in outputs)), levels

    def forward(self, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the three parts of the loss, equation 2: sums over locations, divided by "count", the number of positive ones.

        Without any, "count" is 1. Of `sizes` nothing is needed: places in the padding are negative as others are.
        """
        outputs, levels = self.outputs(images)
        at = Locations(*map(torch.cat, zip(*levels)))
        rows = assign(at, boxes, labels, self.radius)  # (B, L)
        positive, rows = rows >= 0, rows.clamp(min=0)
        count = positive.sum().clamp(min=1)

        classes = labels.gather(1, rows)[..., None] == torch.arange(outputs.logits.shape[-1], device=labels.device)
        class_loss = focal_loss(outputs.logits, classes & positive[..., None])

        targets = boxes.gather(1, rows[..., None].expand(-1, -1, 4))  # (B, L, 4)
        around = boxes_at(at.points, at.strides[:, None].expand(-1, 4))  # of negative locations: any box, to be left out
        targets = torch.where(positive[..., None], targets, around)
        box_loss = 1 - generalized_iou(boxes_at(at.points, outputs.distances)[..., None, :], targets[..., None, :])[..., 0, 0]

        centreness = centreness_of(distances_to(targets, at.points))
        centreness_loss = F.binary_cross_entropy_with_logits(outputs.centreness, centreness, reduction="none")
        return {
            "class_loss": class_loss.sum() / count,
            "box_loss": box_loss.where(positive, 0.0).sum() / count,
            "centreness_loss": centreness_loss.where(positive, 0.0).sum() / count,
            "count": count,
        }

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Return the objects in each of the images (B, C, H, W), whose heights and widths are `sizes` (B, 2)."""
        outputs, levels = self.outputs(images)
        scores = (outputs.logits.sigmoid() * outputs.centreness.sigmoid()[..., None]).sqrt()  # (B, L, K)
        height, width = sizes.to(scores.dtype)[:, None].unbind(-1)  # (B, 1) each
        boxes = clip(boxes_at(torch.cat([level.points for level in levels]), outputs.distances), height, width)  # (B, L, 4)
        counts = [len(level.points) for level in levels]
        chosen = [self.best(*parts) for parts in zip(scores.split(counts, dim=1), boxes.split(counts, dim=1))]
        return [self.without_doubles(*image) for image in zip(*(torch.cat(parts, dim=1) for parts in zip(*chosen)))]

    def best(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (B, M, 4), labels (B, M) and scores (B, M): the best of a level's scores (B, L, K), boxes (B, L, 4)."""
        classes = scores.shape[-1]
        best, places = scores.flatten(1).topk(min(self.candidates, scores[0].numel()))
        rows = (places // classes)[..., None].expand(-1, -1, 4)
        return boxes.gather(1, rows), places % classes, best

    def without_doubles(self, boxes: Tensor, labels: Tensor, scores: Tensor) -> Detections:
        """Return what remains of the candidates (M,) of an image."""
        sure = scores > self.score_threshold
        boxes, labels, scores = boxes[sure], labels[sure], scores[sure]
        kept = nms(boxes, scores, self.nms_threshold, labels)[: self.max_detections]
        return Detections(boxes[kept], labels[kept], scores[kept])


PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "backbone": {"preset": "resnet18", "width": 32},
        "channels": 64,
        "depth": 2,
        "extra": "none",
        "nms_threshold": 0.5,
    },
    "fcos": {"backbone": {"preset": "resnet50", "frozen": True}, "grid": "torchvision", "score_threshold": 0.2},
    "tiny": {
        "backbone": {"preset": "tiny", "depths": (1, 1, 1), "stem": "pool", "stages": (2, 3)},
        "channels": 8,
        "depth": 1,
        "groups": 2,
        "extra": "none",
        "num_classes": 2,
    },
}


def build(preset: str = "small", **overrides: Any) -> FCOS:
    """Return an FCOS by the name of its preset; `overrides` are arguments of `FCOS`."""
    return FCOS(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, ...]:
    """Return what the preset takes: an image of zeros (1, 3, H, W), its size, a box, and its label."""
    height, width = {"fcos": (800, 1088), "tiny": (32, 48)}.get(preset, (240, 320))
    sizes, boxes = torch.tensor([[height, width]]), torch.tensor([[[4.0, 4.0, 24.0, 28.0]]])
    return torch.zeros(1, 3, height, width), sizes, boxes, torch.zeros(1, 1, dtype=torch.long)
