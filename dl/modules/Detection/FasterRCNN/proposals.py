"""The region proposal network: which of many anchors hold an object, and where it is.

Section 3.1 and figure 3 of Faster R-CNN, https://arxiv.org/abs/1506.01497.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Detection.FasterRCNN.anchors import cell_anchors, decode, encode, grid_anchors, overlap_match, sample
from dl.mytorch.layers.boxes import clip, nms, shorter_sides

# B batch, C channels, H, W height and width of a map, A anchors of an image, R of them at a place, N objects of an image

SMOOTH = 1 / 9  # below, the loss of a delta is a parabola


class Scored(NamedTuple):
    """What the network says of each anchor: through the maps, then row after row."""

    logits: Tensor  # (B, A), of an object
    deltas: Tensor  # (B, A, 4), by what the anchor is moved onto it
    anchors: list[Tensor]  # of each map [(H W R, 4)], A in all


class ProposalNetwork(nn.Module):
    """forward: maps [(B, channels, H, W)] -> `Scored`.

    Args:
        strides: of the maps, the finest first.
        sizes: square roots of the anchors' areas, one for each map.
        ratios: heights of the anchors divided by their widths.
        samples: anchors of an image that are trained on, at most half of them with an object.
    """

    def __init__(
        self, channels: int, strides: Sequence[int], sizes: Sequence[float], ratios: Sequence[float], samples: int
    ) -> None:
        super().__init__()
        self.strides, self.samples = tuple(strides), samples
        self.register_buffer("cells", torch.stack([cell_anchors(size, ratios) for size in sizes]), persistent=False)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, len(ratios), 1)
        self.deltas = nn.Conv2d(channels, 4 * len(ratios), 1)
        for module in self.children():  # section 3.1.3
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        self.act = nn.ReLU()

    def forward(self, maps: Sequence[Tensor]) -> Scored:
        logits, deltas, anchors = [], [], []
        for x, cell, stride in zip(maps, self.cells, self.strides, strict=True):
            anchors.append(grid_anchors(cell, *x.shape[-2:], stride))
            x = self.act(self.conv(x))
            logits.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1))  # (B, R, H, W) -> (B, H W R)
            deltas.append(self.deltas(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4))  # (B, 4 R, H, W) -> (B, H W R, 4)
        dtype = self.cells.dtype  # no loss and no box in half precision
        return Scored(torch.cat(logits, dim=1).to(dtype), torch.cat(deltas, dim=1).to(dtype), anchors)

    @torch.no_grad()
    def propose(self, scored: Scored, sizes: Tensor, before: int, after: int) -> list[Tensor]:
        """Return proposals [(at most `after`, 4)] in images of `sizes` (B, 2), the surest first.

        Of each map the `before` surest anchors are moved; of proposals that overlap by more than 0.7 the surest is left.
        """
        counts = [len(anchors) for anchors in scored.anchors]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        parts = zip(scored.logits.split(counts, dim=1), starts)
        chosen = torch.cat([part.topk(min(before, part.shape[1])).indices + start for part, start in parts], dim=1)  # (B, P)
        level = torch.bucketize(chosen, torch.tensor(starts[1:], device=chosen.device), right=True)
        deltas = scored.deltas.gather(1, chosen[:, :, None].expand(-1, -1, 4))
        moved = decode(deltas, torch.cat(scored.anchors)[chosen])  # (B, P, 4)
        scores = scored.logits.gather(1, chosen).sigmoid()
        proposals = []
        for boxes, score, maps, size in zip(moved, scores, level, sizes.tolist()):
            boxes = clip(boxes, *size)
            large = shorter_sides(boxes) >= 1e-3
            boxes, score, maps = boxes[large], score[large], maps[large]
            proposals.append(boxes[nms(boxes, score, 0.7, maps)[:after]])
        return proposals

    def losses(self, scored: Scored, objects: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return both terms of equation 1 for the boxes [(N_i, 4)] of each image's objects.

        Cross-entropy of the sampled anchors, and smooth L1 of the deltas of those that find an object.
        """
        anchors = torch.cat(scored.anchors)
        logits, is_object, deltas, wanted = [], [], [], []
        for i, boxes in enumerate(objects):
            matched = overlap_match(boxes, anchors, 0.7, 0.3, low_quality=True)  # (A,)
            found, background = sample(matched, self.samples, 0.5)
            logits += [scored.logits[i, found], scored.logits[i, background]]
            is_object += [torch.ones_like(logits[-2]), torch.zeros_like(logits[-1])]
            deltas.append(scored.deltas[i, found])
            wanted.append(encode(boxes[matched[found]], anchors[found]))
        sampled, count = torch.cat(logits), max(1, sum(len(part) for part in logits))
        objectness = F.binary_cross_entropy_with_logits(sampled, torch.cat(is_object), reduction="sum")
        moved = F.smooth_l1_loss(torch.cat(deltas), torch.cat(wanted), beta=SMOOTH, reduction="sum")
        return {"objectness_loss": objectness / count, "proposal_loss": moved / count}
