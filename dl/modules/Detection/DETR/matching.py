"""Each box gets one query, and each query what it should have said: the bipartite matching and the losses of DETR."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dl.modules.Detection.hungarian import assign
from dl.mytorch.layers.boxes import generalized_iou, to_corners

# B batch, Q queries, N boxes of an image with its padding rows, K classes without "no object"; boxes: centre, width, height,
# as parts of the image

CLASS, L1, GIOU = 1.0, 5.0, 2.0  # weights of the terms, of the cost (equation 1) as of the loss (equation 2); appendix A.4
NO_OBJECT = 0.1  # weight of "no object" in the cross-entropy, section 3.1


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Return the query that each of `targets` (B, N, 4) is assigned to, -1 for none: (B, N). Equation 1.

    The probability itself stands for the class, not its logarithm, so that its size is that of the boxes' terms.
    """
    probability = logits.softmax(-1)  # (B, Q, K + 1)
    classes = labels.clamp(min=0)[:, None].expand(-1, logits.shape[1], -1)  # (B, Q, N)
    cost = -CLASS * probability.gather(2, classes)
    cost = cost + L1 * (boxes[:, :, None] - targets[:, None]).abs().sum(-1)
    cost = cost - GIOU * generalized_iou(to_corners(boxes), to_corners(targets))
    return assign(cost, labels >= 0)


def set_losses(logits: Tensor, boxes: Tensor, targets: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return the weighted losses of one decoder block's predictions, equation 2: "class", "l1", "giou".

    logits (B, Q, K + 1), the last for "no object"; boxes (B, Q, 4); targets (B, N, 4); labels (B, N), -1 for padding rows.
    Cross-entropy is a weighted mean over all queries, L1 and GIoU are sums over pairs divided by the number of boxes.
    """
    query = match(logits, boxes, targets, labels)
    image, row = (query >= 0).nonzero(as_tuple=True)  # (P,), the pairs
    chosen = query[image, row]
    no_object = logits.shape[-1] - 1
    classes = torch.full(logits.shape[:2], no_object, device=logits.device)
    classes[image, chosen] = labels[image, row]
    weight = logits.new_ones(no_object + 1)
    weight[no_object] = NO_OBJECT
    found, wanted = boxes[image, chosen], targets[image, row]  # (P, 4)
    overlap = generalized_iou(to_corners(found)[:, None], to_corners(wanted)[:, None]).flatten()  # (P,)
    count = (labels >= 0).sum().clamp(min=1)
    return {
        "class": CLASS * F.cross_entropy(logits.flatten(0, 1), classes.flatten(), weight),
        "l1": L1 * (found - wanted).abs().sum() / count,
        "giou": GIOU * (1 - overlap).sum() / count,
    }
