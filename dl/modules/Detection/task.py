"""Boxes of objects: the losses of the model, mean average precision, and figures of the worst images."""

import re
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from dl.modules.Detection.figure import Example, comparison
from dl.modules.Detection.metrics import NUM_THRESHOLDS, APError, matches, truth_of
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.tasks import StepOutput


class Detection(Task):
    """The sum of the losses that a model returns; evaluation by COCO's rules.

    Batches: "images" (B, C, H, W), zero right and below of their "sizes" (B, 2); "boxes" (B, N, 4) in pixels; "labels" (B, N),
    classes from 0 on, -1 in rows without a box; perhaps "masks" (B, N, H, W), and in evaluation "crowd" (B, N), boxes that are
    neither hit nor missed. `model(images, sizes, boxes, labels[, masks])` returns its losses by name, means over the images or,
    if it has an entry "count", over that many items. `model.detect(images, sizes)` returns `Detections` for each image.

    Args:
        losses: names of losses that are quantities of the run, too.
        masks: whether masks are found and evaluated.
        score: from which on a detection is drawn, and a wrong one makes an image a bad one.
        worst: how many images of an evaluation, those with most mistakes, the figures show.
        unit: what the losses are means over, of models with a "count".
    """

    monitor = "map50_error"

    def __init__(
        self,
        class_names: Sequence[str],
        losses: Sequence[str] = (),
        masks: bool = False,
        score: float = 0.5,
        worst: int = 3,
        unit: str = "image",
    ) -> None:
        self.class_names, self.losses, self.masks = tuple(class_names), tuple(losses), masks
        self.score, self.worst, self.unit = score, worst, unit
        self.kept: list[tuple[int, Example]] = []

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        images = len(batch["images"])
        batch = batch if images else blank(batch)  # a rank without an image takes part in the step
        labels = batch["labels"]
        if "crowd" in batch:
            labels = labels.masked_fill(batch["crowd"].bool(), -1)
        masks = (batch["masks"],) if self.masks else ()
        losses = dict(model(batch["images"], batch["sizes"], batch["boxes"], labels, *masks))
        count = losses.pop("count", images) if images else 0
        outputs = {name: losses[name].detach() for name in self.losses}
        return StepOutput(torch.stack(list(losses.values())).sum(), count, outputs | {"count": torch.as_tensor(count)})

    def eval_step(self, model: Any, batch: Batch) -> StepOutput:
        output, classes = self.step(model, batch), len(self.class_names)
        found = model.detect(batch["images"], batch["sizes"]) if len(batch["images"]) else []
        true = [truth_of(batch, i) for i in range(len(found))]
        for masks in (False, True) if self.masks else (False,):
            rows, truths = [torch.zeros(0, 3 + 2 * NUM_THRESHOLDS, dtype=torch.float64)], torch.zeros(classes)
            for i, pair in enumerate(zip(found, true)):
                own, counts = matches(*pair, classes, masks=masks)
                rows.append(torch.cat([own.new_full((len(own), 1), i), own], dim=1))
                truths = truths + counts
            prefix = "mask_" if masks else ""
            output.outputs.update({f"{prefix}matches": torch.cat(rows), f"{prefix}truths": truths})
        self._keep_worst([Example.of(*each, self.score) for each in zip(batch["images"], batch["sizes"], found, true)])
        return output

    def begin_evaluation(self, model: nn.Module) -> None:
        self.kept = []

    def _keep_worst(self, examples: Sequence[Example]) -> None:
        self.kept += [(example.num_mistakes, example) for example in examples]
        self.kept = sorted(self.kept, key=lambda pair: -pair[0])[: self.worst]

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"worst": comparison([shown for _, shown in self.kept], self.class_names)} if self.kept else {}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        return self.preview(model)

    def train_metrics(self) -> dict[str, Metric]:
        return {name: Mean(name, "count") for name in self.losses}

    def metrics(self) -> dict[str, Metric]:
        classes = len(self.class_names)
        errors: dict[str, Metric] = {}
        for prefix in ("", "mask_") if self.masks else ("",):
            errors[f"{prefix}map50_error"] = APError(classes, prefix=prefix)
            errors[f"{prefix}map_error"] = APError(classes, NUM_THRESHOLDS, prefix=prefix)
        if classes <= 10:  # each is a column of tables, and a chart
            names = (re.sub(r"\W+", "_", name) for name in self.class_names)
            errors |= {f"ap50_{name}_error": APError(classes, classes=[i]) for i, name in enumerate(names)}
        return errors | self.train_metrics()


def blank(batch: Batch) -> Batch:
    """Return one image without boxes, of the size of those of a batch without images."""
    made = {name: tensor.new_zeros(1, *tensor.shape[1:]) for name, tensor in batch.items()}
    size: Tensor = made["sizes"].new_tensor([batch["images"].shape[-2:]])
    return made | {"sizes": size, "labels": made["labels"] - 1}
