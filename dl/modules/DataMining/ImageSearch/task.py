"""What makes features good for search: images of a class near each other, those of other classes far."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import introspect, plot
from dl.mytorch.data import Batch
from dl.mytorch.tasks import StepOutput, Task

# B images, D numbers of an embedding


def contrastive(embeddings: Tensor, labels: Tensor, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """Return the supervised contrastive loss, Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2.

    (B, D), (B,) -> mean over anchors, their count. An anchor's loss is the mean of -log softmax, over its similarities to all
    others, at those of its class. Anchors alone in their class do not count.

    Deviation: one view of each image instead of two; the others of its class in the batch are its positives.
    """
    directions = F.normalize(embeddings.float())
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    logits = (directions @ directions.T / temperature).masked_fill(itself, -torch.inf)
    log_p = logits.log_softmax(1).masked_fill(itself, 0)  # (B, B)
    positive = (labels[:, None] == labels) & ~itself
    counts = positive.sum(1)
    losses = -(log_p * positive).sum(1) / counts.clamp_min(1)
    return _mean(losses, counts > 0)


def triplet(embeddings: Tensor, labels: Tensor, margin: float = 0.2) -> tuple[Tensor, Tensor]:
    """Return the triplet loss with semi-hard negatives: Schroff et al. 2015, https://arxiv.org/abs/1503.03832, equation 3.

    (B, D), (B,) -> mean over pairs of a class, their count. Of anchor and positive, the loss is max(0, squared distance -
    that to a negative + margin), of directions. The negative (section 3.2) is the nearest farther than the positive, or, where
    there is none, the farthest. Pairs without a negative do not count.
    """
    directions = F.normalize(embeddings.float())
    squares = 2 - 2 * directions @ directions.T  # (B, B)
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    negatives = squares.masked_fill(same, torch.inf).sort(1).values
    farther = torch.searchsorted(negatives.detach(), squares.detach(), right=True)  # place of the first negative that is
    last = (~same).sum(1, keepdim=True) - 1
    chosen = negatives.gather(1, torch.minimum(farther, last).clamp_min(0))
    counted = positive & (last >= 0)
    return _mean(F.relu(torch.where(counted, squares - chosen + margin, 0.0)), counted)


def _mean(losses: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    count = counted.sum()
    return (losses * counted).sum() / count.clamp_min(1), count


LOSSES = {"contrastive": contrastive, "triplet": triplet}


class MetricLearning(Task):
    """A loss by its name in `LOSSES`, of the network's output. Batches: "images" (B, C, H, W) and "labels" (B,).

    An image is compared with those of its batch: other batch sizes give other losses, and each rank, and each forward of
    `accumulate`, has images of its own only.
    """

    def __init__(self, loss: str) -> None:
        self.loss = LOSSES[loss]

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        loss, count = self.loss(model(batch["images"]), batch["labels"])
        return StepOutput(loss, count, {})

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        weight = introspect.first_kernels(model)
        return {} if weight is None else {"kernels": plot.kernels(weight)}
