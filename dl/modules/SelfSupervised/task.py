"""What all that learn from images without labels share: errors of the nearest neighbours, and a measure of collapse."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch import Task
from dl.mytorch.data import Batch, Loader
from dl.mytorch.features import encode
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.probes import knn_classes


class Collapse(Metric):
    """1 - the spread of embeddings: sqrt(D) times the mean deviation of each of the D coordinates of unit vectors.

    0 where they are spread evenly over the sphere, 1 where all are the same (Chen & He 2020, https://arxiv.org/abs/2011.10566,
    section 4.1). If they fill k of D dimensions it is at least 1 - sqrt(k / D).

    `outputs["embeddings"]`: (..., D).
    """

    def __init__(self, dim: int) -> None:
        self.dim, self.num_sums = dim, 2 * dim + 1
        super().__init__()

    def update(self, outputs: Batch) -> None:
        unit = F.normalize(outputs["embeddings"].detach().float().flatten(0, -2), dim=1).double()
        counted = unit.new_tensor([len(unit)])
        self.sums = self.sums + torch.cat([unit.sum(0), unit.square().sum(0), counted]).to(self.sums.device)

    def formula(self, *sums: float) -> float:
        if not sums[-1]:
            return math.nan
        mean, squares = torch.tensor(sums[:-1], dtype=torch.float64).view(2, self.dim) / sums[-1]
        return 1 - math.sqrt(self.dim) * (squares - mean.square()).clamp(min=0).sqrt().mean().item()


class SelfSupervised(Task):
    """A loss without labels, which a subclass gives. Labels only measure: see `knn_error`.

    Batches of evaluation have "images" (B, C, H, W) as they are and "labels" (B,), beside what the loss reads. A model has
    `represent(images) -> (B, D)`. Of each evaluated image the k nearest training images, by their features, vote for a class.

    Args:
        bank: the training images, as they are.
        dim: length of the embeddings, "embeddings" (..., dim) among the outputs.
        monitor: what chooses the best checkpoint: "loss" does so without labels.
    """

    def __init__(self, bank: Loader, dim: int, monitor: str = "knn_error", k: int = 20, channels_last: bool = False) -> None:
        self.bank, self.dim, self.monitor, self.k, self.channels_last = bank, dim, monitor, k, channels_last

    def begin_evaluation(self, model: nn.Module) -> None:
        device = next(model.parameters()).device
        self.features, self.labels = encode(model.represent, self.bank, device, self.channels_last)

    def wrong(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return for each image, of features (B, D), 1 where its neighbours vote for another class than its own, else 0."""
        if not len(labels):
            return labels.float()
        return (knn_classes(features.float(), self.features, self.labels, self.k) != labels).float()

    def metrics(self) -> dict[str, Metric]:
        return {"knn_error": Mean("wrong"), **self.train_metrics()}

    def train_metrics(self) -> dict[str, Metric]:
        return {"collapse": Collapse(self.dim)}
