"""Faster R-CNN, and Mask R-CNN.

"Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", Shaoqing Ren, Kaiming He, Ross Girshick,
Jian Sun, 2015, https://arxiv.org/abs/1506.01497, on a feature pyramid (Tsung-Yi Lin et al. 2017,
https://arxiv.org/abs/1612.03144, section 4). With `mask_channels`: "Mask R-CNN", Kaiming He, Georgia Gkioxari, Piotr Dollár,
Ross Girshick, 2017, https://arxiv.org/abs/1703.06870, section 3.

First a small network says for each of many anchors, boxes of a few sizes everywhere, whether there is an object, and how the
anchor is to be moved onto it: proposals. Then what the maps hold under each proposal is classified, and the proposal moved
once more; under what is found, a mask is drawn.

"fasterrcnn" and "maskrcnn" are torchvision's networks for COCO, with norms that stay as they were pretrained. "small" is ours
for a CPU and for training from scratch, with masks. "tiny" is for tests.

Deviations, all as in torchvision:
- Batch norms instead of none in the heads' backbone; RoIAlign instead of RoIPool in Faster R-CNN, too.
- Anchors that cross the image's border are trained on (the paper ignores them); the boxes of objects are proposals, too.
- Each loss is the mean over its samples; the paper weighs that of the proposals' boxes by 10 / 2,400 anchors.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Detection.backbone import FPN, ResNetFeatures
from dl.modules.Detection.FasterRCNN.anchors import decode, encode, overlap_match, sample
from dl.modules.Detection.FasterRCNN.proposals import SMOOTH, ProposalNetwork
from dl.modules.Detection.FasterRCNN.regions import paste, pool
from dl.mytorch.layers.boxes import Detections, clip, nms, shorter_sides
from dl.mytorch.layers.roi_align import crop

# B batch, C channels, H, W height and width, N objects of an image, S boxes that a head looks at, K classes without background

BOX_SIDE, MASK_SIDE = 7, 14  # of what the heads see of the maps under a box
CODER = (10.0, 10.0, 5.0, 5.0)  # what the box head's deltas are multiplied by, so that their std is about 1


class BoxHead(nn.Module):
    """forward: maps under boxes (S, C, 7, 7) -> logits (S, 1 + K), background first, and deltas (S, 1 + K, 4) for each."""

    def __init__(self, channels: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels * BOX_SIDE**2, hidden)
        self.act1 = nn.ReLU()
        self.fc2 = nn.Linear(hidden, hidden)
        self.act2 = nn.ReLU()
        self.logits = nn.Linear(hidden, 1 + num_classes)
        self.deltas = nn.Linear(hidden, 4 * (1 + num_classes))
        for module, std in ((self.logits, 0.01), (self.deltas, 0.001)):  # Fast R-CNN, section 2.3
            nn.init.normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act2(self.fc2(self.act1(self.fc1(x.flatten(1)))))
        return self.logits(x), self.deltas(x).unflatten(1, (-1, 4))


class MaskHead(nn.Sequential):
    """Mask R-CNN, figure 4, right: (S, C, 14, 14) -> logits of a mask for each class (S, 1 + K, 28, 28), that of 0 unused."""

    def __init__(self, in_channels: int, channels: int, num_convs: int, num_classes: int) -> None:
        super().__init__()
        for i in range(num_convs):
            self.add_module(f"conv{i + 1}", nn.Conv2d(channels if i else in_channels, channels, 3, padding=1))
            self.add_module(f"act{i + 1}", nn.ReLU())
        self.add_module("up", nn.ConvTranspose2d(channels, channels, 2, stride=2))
        self.add_module("act", nn.ReLU())
        self.add_module("logits", nn.Conv2d(channels, 1 + num_classes, 1))
        for module in self.children():
            if not isinstance(module, nn.ReLU):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)


class Samples(NamedTuple):
    """What the heads are trained on in one image."""

    boxes: Tensor  # (S, 4), those with an object first
    classes: Tensor  # (S,), 0 is background
    objects: Tensor  # (F,), which object, for those with one

    @property
    def found(self) -> Tensor:
        """The boxes with an object (F, 4)."""
        return self.boxes[: len(self.objects)]


class FasterRCNN(nn.Module):
    """forward: images, sizes, boxes, labels[, masks] -> the losses by name; `detect`: images, sizes -> `Detections` of each.

    Images (B, in_channels, H, W) are padded by 0 to the right and below, sizes (B, 2) are their heights and widths. Boxes are
    (B, N, 4) with labels (B, N), classes from 0 on, -1 in rows without a box, and masks (B, N, H, W).

    Args:
        resnet: preset and arguments of `ResNetFeatures`.
        channels: of the pyramid's maps.
        anchor_sizes: square roots of the anchors' areas, one for each map of the pyramid.
        ratios: heights of the anchors divided by their widths.
        hidden: units of the two layers before class and box.
        mask_channels: of the four (`mask_convs`) layers that draw masks; 0 = no masks.
        canonical: a box of canonical^2 pixels is read from the third map of four, see `levels`.
        train_proposals, test_proposals: how many of each map go into the suppression of overlaps, and how many come out.
        anchor_samples, box_samples: anchors and proposals of an image that are trained on.
        score: from which on a box is a detection, of at most `max_detections` in an image.
    """

    def __init__(
        self,
        num_classes: int = 90,
        in_channels: int = 3,
        resnet: dict[str, Any] | None = None,
        channels: int = 256,
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
        ratios: Sequence[float] = (0.5, 1.0, 2.0),
        hidden: int = 1024,
        mask_channels: int = 0,
        mask_convs: int = 4,
        canonical: float = 224,
        train_proposals: tuple[int, int] = (2000, 2000),
        test_proposals: tuple[int, int] = (1000, 1000),
        anchor_samples: int = 256,
        box_samples: int = 512,
        box_fraction: float = 0.25,
        score: float = 0.05,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.num_classes, self.canonical = num_classes, canonical
        self.train_proposals, self.test_proposals = train_proposals, test_proposals
        self.box_samples, self.box_fraction = box_samples, box_fraction
        self.score, self.max_detections = score, max_detections
        self.features = ResNetFeatures(**{"stages": (1, 2, 3, 4), "in_channels": in_channels, **(resnet or {})})
        self.fpn = FPN(self.features.channels, channels, extra="pool")
        self.strides = [*self.features.strides, 2 * self.features.strides[-1]]
        self.proposals = ProposalNetwork(channels, self.strides, anchor_sizes, ratios, anchor_samples)
        self.box_head = BoxHead(channels, hidden, num_classes)
        self.mask_head = MaskHead(channels, mask_channels, mask_convs, num_classes) if mask_channels else None

    def forward(
        self, images: Tensor, sizes: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor | None = None
    ) -> dict[str, Tensor]:
        self._check(boxes, labels, masks)
        real = labels >= 0
        objects = [box[rows] for box, rows in zip(boxes, real)]  # [(N_i, 4)]
        maps = self.fpn(self.features(images))
        scored = self.proposals(maps)
        proposals = self.proposals.propose(scored, sizes, *self.train_proposals)
        losses = self.proposals.losses(scored, objects)
        parts = zip(proposals, objects, labels, real)
        samples = [self._sampled(proposed, box, label[rows]) for proposed, box, label, rows in parts]
        losses |= self._box_losses(maps, samples, objects)
        if self.mask_head is not None:
            wanted = [mask[rows][each.objects] for mask, rows, each in zip(masks, real, samples)]  # [(F_i, H, W)]
            losses["mask_loss"] = self._mask_loss(maps, samples, torch.cat(wanted))
        return losses

    def _sampled(self, proposals: Tensor, objects: Tensor, labels: Tensor) -> Samples:
        """Return boxes of one image drawn from proposals (P, 4), and objects (N, 4) of labels (N,), which train masks early."""
        candidates = torch.cat([proposals, objects])
        matched = overlap_match(objects, candidates, 0.5, 0.5)
        found, background = sample(matched, self.box_samples, self.box_fraction)
        numbers = matched[found]
        classes = torch.cat([1 + labels[numbers], torch.zeros_like(background)])
        return Samples(candidates[torch.cat([found, background])], classes, numbers)

    def _box_losses(self, maps: Sequence[Tensor], samples: Sequence[Samples], objects: Sequence[Tensor]) -> dict[str, Tensor]:
        """Fast R-CNN, equation 1: cross-entropy of the classes, smooth L1 of the deltas of an object's class."""
        logits, deltas = self._box_outputs(maps, [each.boxes for each in samples])
        classes = torch.cat([each.classes for each in samples])
        found, count = classes > 0, max(1, len(classes))
        boxes = torch.cat([box[each.objects] for box, each in zip(objects, samples)])
        wanted = encode(boxes, torch.cat([each.found for each in samples]), CODER)
        moved = F.smooth_l1_loss(deltas[found, classes[found]], wanted, beta=SMOOTH, reduction="sum")
        return {"class_loss": F.cross_entropy(logits, classes, reduction="sum") / count, "box_loss": moved / count}

    def _box_outputs(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        logits, deltas = self.box_head(pool(maps[:-1], self.strides[:-1], boxes, BOX_SIDE, self.canonical))
        return logits.to(boxes[0].dtype), deltas.to(boxes[0].dtype)  # no loss and no box in half precision

    def _mask_loss(self, maps: Sequence[Tensor], samples: Sequence[Samples], masks: Tensor) -> Tensor:
        """Mask R-CNN, section 3: cross-entropy of the pixels of the mask of the object's class; no class competes with it."""
        boxes, classes = [each.found for each in samples], torch.cat([each.classes for each in samples])
        logits = self._mask_logits(maps, boxes, classes[classes > 0])
        target = crop(masks, torch.cat(boxes), tuple(logits.shape[-2:]))
        return F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / max(1, target.numel())

    def _mask_logits(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], classes: Tensor) -> Tensor:
        """Return the masks under boxes [(F_i, 4)] of the classes (F,), 1 to K: (F, 28, 28)."""
        masks = self.mask_head(pool(maps[:-1], self.strides[:-1], boxes, MASK_SIDE, self.canonical))
        return masks[torch.arange(len(masks), device=masks.device), classes].to(boxes[0].dtype)

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Return what is found in each image; boxes and masks end at its real height and width."""
        maps = self.fpn(self.features(images))
        proposals = self.proposals.propose(self.proposals(maps), sizes, *self.test_proposals)
        logits, deltas = self._box_outputs(maps, proposals)
        counts = [len(each) for each in proposals]
        moved = decode(deltas[:, 1:], torch.cat(proposals)[:, None], CODER).split(counts)  # [(n, K, 4)]
        scores = logits.softmax(1)[:, 1:].split(counts)
        found = [self._surest(clip(box, *size), score) for box, score, size in zip(moved, scores, sizes.tolist())]
        if self.mask_head is None:
            return found
        classes = torch.cat([1 + each.labels for each in found])
        masks = self._mask_logits(maps, [each.boxes for each in found], classes).sigmoid()
        parts = zip(found, masks.split([len(each.boxes) for each in found]), sizes.tolist())
        return [each._replace(masks=paste(part, each.boxes, *size) > 0.5) for each, part, size in parts]

    def _surest(self, boxes: Tensor, scores: Tensor) -> Detections:
        """Return the detections among boxes (n, K, 4), one for each class, with their probabilities (n, K)."""
        number, labels = ((scores > self.score) & (shorter_sides(boxes) >= 1e-2)).nonzero(as_tuple=True)
        boxes, scores = boxes[number, labels], scores[number, labels]
        kept = nms(boxes, scores, 0.5, labels)[: self.max_detections]
        return Detections(boxes[kept], labels[kept], scores[kept])

    def _check(self, boxes: Tensor, labels: Tensor, masks: Tensor | None) -> None:
        if (labels >= self.num_classes).any():
            raise ValueError(f"label {int(labels.max())}: the classes are 0 to {self.num_classes - 1}, without background")
        empty = (labels >= 0) & ~(shorter_sides(boxes) > 0)
        if empty.any():
            raise ValueError(f"box {boxes[empty][0].tolist()} has no area: leave it out, or give its row the label -1")
        if self.mask_head is not None and masks is None:
            raise ValueError("the network draws masks, so it is trained on masks, too; mask_channels=0 builds one without")


_R50 = {"resnet": {"preset": "resnet50", "frozen": True, "eps": 0.0}}
PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "resnet": {"preset": "resnet18", "width": 32},
        "channels": 64,
        "anchor_sizes": (16, 32, 64, 128, 256),
        "hidden": 256,
        "mask_channels": 64,
        "canonical": 112,
        "train_proposals": (500, 300),
        "test_proposals": (300, 100),
        "anchor_samples": 128,
        "box_samples": 128,
        "max_detections": 50,
    },
    "fasterrcnn": _R50,
    "maskrcnn": {**_R50, "mask_channels": 256},
    "tiny": {
        "resnet": {"preset": "tiny", "stem": "imagenet", "stages": (1, 2)},
        "channels": 8,
        "anchor_sizes": (8, 16, 32),
        "hidden": 16,
        "mask_channels": 8,
        "mask_convs": 1,
        "canonical": 32,
        "train_proposals": (60, 40),
        "test_proposals": (30, 20),
        "max_detections": 20,
    },
}


def build(preset: str = "small", **overrides: Any) -> FasterRCNN:
    """Return a Faster or Mask R-CNN by the name of its preset; `overrides` are arguments of `FasterRCNN`."""
    return FasterRCNN(**{**PRESETS[preset], **overrides})


def example(preset: str) -> tuple[Tensor, ...]:
    """Return what a network of the preset is trained on, with one object: images, sizes, boxes, labels and masks."""
    channels, side = PRESETS[preset].get("in_channels", 3), 64
    masks = (torch.zeros(1, 1, side, side, dtype=torch.bool),)
    box, label = torch.tensor([[[8.0, 8.0, 40.0, 40.0]]]), torch.zeros(1, 1, dtype=torch.long)
    return torch.zeros(1, channels, side, side), torch.tensor([[side, side]]), box, label, *masks
