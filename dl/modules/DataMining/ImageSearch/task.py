"""What makes features good for search: pictures of a class near each other, those of other classes far."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import introspect, plot
from dl.mytorch.data import Batch
from dl.mytorch.tasks import StepOutput, Task

# B pictures, D numbers of an embedding


def contrastive(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """Supervised contrastive loss, Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2.

    (B, D), (B,) -> mean over anchors, their count. An anchor's loss is the mean of -log softmax, over its similarities to all
    others, at those of its class. Anchors alone in their class do not count.

    Deviation: one view of each picture instead of two; the others of its class in the batch are its positives.
    """
    directions = F.normalize(embeddings.float())
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (directions @ directions.T / temperature).masked_fill(itself, -torch.inf)
    log_p = logits.log_softmax(1).masked_fill(itself, 0)  # (B, B)
    positive = (labels[:, None] == labels) & ~itself
    counts = positive.sum(1)
    losses = -(log_p * positive).sum(1) / counts.clamp_min(1)
    return _mean(losses, counts > 0)


def triplet(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Batch-hard triplet loss with the soft margin, Hermans et al. 2017, https://arxiv.org/abs/1703.07737, equation 5.

    (B, D), (B,) -> mean over anchors, their count. An anchor's loss is log(1 + exp(distance to the farthest of its class -
    distance to the nearest of another)). Anchors without both do not count.
    """
    distances = torch.cdist(embeddings.float(), embeddings.float(), compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    farthest = distances.masked_fill(~same | itself, -torch.inf).amax(1)
    nearest = distances.masked_fill(same, torch.inf).amin(1)
    counted = farthest.isfinite() & nearest.isfinite()
    losses = F.softplus(torch.where(counted, farthest - nearest, 0.0))
    return _mean(losses, counted)


def _mean(losses: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    count = counted.sum()
    return (losses * counted).sum() / count.clamp_min(1), count


LOSSES = {"contrastive": contrastive, "triplet": triplet}


class MetricLearning(Task):
    """A loss by its name in `LOSSES`, of what the network puts out. Batches: "images" (B, C, H, W) and "labels" (B,).

    A picture is compared with those of its batch: other batch sizes give other losses, and each rank, and each forward of
    `accumulate`, has pictures of its own only.
    """

    def __init__(self, loss: str) -> None:
        self.loss = LOSSES[loss]

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        loss, count = self.loss(model(batch["images"]), batch["labels"])
        return StepOutput(loss, count, {})

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        weight = introspect.first_kernels(model)
        return {} if weight is None else {"kernels": plot.kernels(weight)}
