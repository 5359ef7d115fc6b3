"""A class for each pixel: weighted cross-entropy, pixel error, mean IoU, Dice, and figures of the worst images."""

import re
from typing import Any, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Segmentation.figure import comparison
from dl.modules.Segmentation.metrics import DiceError, IoUError, PixelError, confusion
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.data.images.windows import IGNORE
from dl.mytorch.metrics import Metric
from dl.mytorch.tasks import StepOutput


class Segmentation(Task):
    """Cross-entropy of each pixel; one of the class IGNORE counts nowhere.

    Batches: "images" (B, C, H, W), "masks" (B, h, w), h and w those of the network's output, and, in training only, perhaps
    "weights" (B, h, w), by which the terms of the sum are multiplied; the mean is over pixels all the same. In evaluation masks
    have the size of their images, and `model.predict` gives logits at each pixel; no weights there, so that losses compare.

    Args:
        worst: how many images of an evaluation, those with the largest pixel error, the figures show.
    """

    monitor = "pixel_error"
    unit = "pixel"

    def __init__(self, class_names: Sequence[str], worst: int = 3) -> None:
        self.class_names, self.worst = tuple(class_names), worst
        self.kept: list[tuple[float, dict[str, Tensor]]] = []

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self.score(model(batch["images"]), batch)

    def eval_step(self, model: Any, batch: Batch) -> StepOutput:
        logits = model.predict(batch["images"])
        predicted = logits.argmax(1)
        for image, mask, classes in zip(batch["images"], batch["masks"], predicted):
            counted = mask != IGNORE
            error = float((counted & (classes != mask)).sum() / counted.sum().clamp(min=1))
            self.kept.append((error, {"image": image.cpu(), "mask": mask.cpu(), "predicted": classes.cpu()}))
        self.kept = sorted(self.kept, key=lambda pair: -pair[0])[: self.worst]
        return self.score(logits, batch)

    def score(self, logits: Tensor, batch: Batch) -> StepOutput:
        """Return the loss of logits (B, K, h, w)."""
        masks = batch["masks"].long()
        losses = F.cross_entropy(logits.float(), masks, ignore_index=IGNORE, reduction="none")  # (B, h, w)
        if "weights" in batch:
            losses = losses * batch["weights"]
        count = (masks != IGNORE).sum()
        counts = confusion(logits.detach().argmax(1), masks, len(self.class_names))
        return StepOutput(losses.sum() / count.clamp(min=1), count, {"confusion": counts})

    def begin_evaluation(self, model: nn.Module) -> None:
        self.kept = []

    def metrics(self) -> dict[str, Metric]:
        classes = len(self.class_names)
        errors: dict[str, Metric] = {"pixel_error": PixelError(classes), "iou_error": IoUError(classes)}
        if classes <= 10:  # each is a column of tables, and a chart
            names = (re.sub(r"\W+", "_", name) for name in self.class_names)
            errors |= {f"dice_{name}_error": DiceError(classes, i) for i, name in enumerate(names)}
        return errors

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"worst": comparison([shown for _, shown in self.kept])} if self.kept else {}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        return self.preview(model)
