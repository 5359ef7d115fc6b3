"""Reconstruction of hidden patches: mean squared error of their pixels, in units of each patch's own deviation."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.SelfSupervised.MAE.model import patchify, unpatchify
from dl.modules.SelfSupervised.task import Collapse, SelfSupervised
from dl.mytorch import plot
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput

SHOWN = 8  # images of a figure


def normalized(patches: Tensor) -> Tensor:
    """Return patches (..., P) minus their mean, over their deviation. Section 3: such targets make better features."""
    return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def reconstruction_loss(predictions: Tensor, targets: Tensor, hidden: Tensor) -> Tensor:
    """Return the mean squared error of predictions (B, N, P) over the hidden patches, where `hidden` (B, N) is 1."""
    errors = (predictions.float() if predictions.dtype != torch.float64 else predictions).sub(targets).square().mean(-1)
    return (errors * hidden).sum() / hidden.sum()


class Reconstruction(SelfSupervised):
    """Batches have "images" (B, C, X, X) and "noise" (B, N), which hides patches; for features no patch is hidden."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self.score(model(batch["images"], batch["noise"]), model, batch)

    def eval_step(self, model: Any, batch: Batch) -> StepOutput:
        predictions = model(batch["images"], batch["noise"])
        if self.shown is None:
            self.shown = figure(model, predictions[:SHOWN], batch["images"][:SHOWN], batch["noise"][:SHOWN])
        features = model.represent(batch["images"])
        measured = {"wrong": self.wrong(features, batch["labels"]), "embeddings": features}
        return self.score(predictions, model, batch)._replace(outputs=measured)

    def score(self, predictions: Tensor, model: Any, batch: Batch) -> StepOutput:
        """Return the loss of predictions (B, N, P), in which each image counts the same: all have as many hidden patches."""
        network = getattr(model, "module", model)  # a wrapper of ranks has no other methods than forward
        targets = normalized(patchify(batch["images"], network.patch_size))
        return StepOutput(reconstruction_loss(predictions, targets, network.hidden(batch["noise"])), len(targets), {})

    def begin_evaluation(self, model: nn.Module) -> None:
        super().begin_evaluation(model)
        self.shown: Tensor | None = None

    def metrics(self) -> dict[str, Metric]:
        return {"knn_error": Mean("wrong"), "collapse": Collapse(self.dim)}

    def train_metrics(self) -> dict[str, Metric]:
        return {}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {} if self.shown is None else {"reconstructed": self.shown}


def figure(model: Any, predictions: Tensor, images: Tensor, noise: Tensor) -> Tensor:
    """Return images (B, C, X, X) as rows: what is visible, the predictions in the hidden places, and the targets.

    Patches are shown as the loss sees them, from -3 to 3 deviations about their mean. Pixels would need the hidden patches' own
    mean and deviation, which the network has not seen.
    """
    targets, hidden = normalized(patchify(images, model.patch_size)), model.hidden(noise)[..., None]
    rows = [targets * (1 - hidden), torch.where(hidden > 0, predictions.float(), targets), targets]
    shown = torch.cat([unpatchify(row, model.patch_size) for row in rows])  # (3 B, C, X, X)
    return plot.grid((shown / 6 + 0.5).clamp(0, 1).cpu(), len(images), enlarge=2, stretch=False)
