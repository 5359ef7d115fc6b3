"""What differs between models in training: the loss, the errors, what to show. The loop is the same for all."""

import math
from typing import Any, NamedTuple, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.data.loader import Batch
from dl.mytorch.metrics import RMSE, Metric, TopKError, UnexplainedVariance


class StepOutput(NamedTuple):
    """What one forward pass gives to the loop."""

    loss: Tensor  # scalar, mean over `count` items
    count: Tensor | int  # what that mean is over: images, target tokens, ...
    outputs: Batch  # what the metrics read


class Task:
    """A model's folder subclasses this where it differs; nothing else of training has to be written again."""

    monitor: str = "loss"  # the validation quantity that chooses the best checkpoint; lower is better, always
    unit: str = "example"  # what `StepOutput.count` counts
    counted: str = ""  # what history.json calls the training examples so far, where an agent makes them: "environment_steps"

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Forward pass and loss on one batch."""
        raise NotImplementedError

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Return the same for evaluation. Default: `step`."""
        return self.step(model, batch)

    def metrics(self) -> dict[str, Metric]:
        """Return new metrics by name; the loss is measured anyway."""
        return {}

    def begin_evaluation(self, model: nn.Module) -> None:
        """Forget what `eval_step` collected in the evaluation before."""

    def train_metrics(self) -> dict[str, Metric]:
        """Return those of training, which read the outputs of `step`. Default: `metrics`."""
        return self.metrics()

    def state(self) -> dict[str, Tensor]:
        """Return what the next step depends on beside the model: a row for each example of a batch. A checkpoint keeps it."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` gave."""

    def own_state(self) -> dict[str, Any]:
        """Return what else the next step depends on, in plain values and tensors, the same on all ranks, which all call it."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Continue from what `own_state` gave."""

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        """Return images (C, H, W) in [0, 1], or texts, to log after each evaluation. Keep it cheap. All ranks call it."""
        return {}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        """Return the same, drawn once, after the test: what may take a second. All ranks call it."""
        return {}


class Classification(Task):
    """One label per example: cross-entropy, top-1 and, of more than five classes, top-5 error.

    Batches: "images" (B, C, H, W) and "labels" (B,). Label smoothing (Szegedy et al. 2015, section 7,
    https://arxiv.org/abs/1512.00567) acts on the training loss only, so that validation losses compare. So do "targets"
    (B, classes), shares of the classes, where a training batch has them (mixup, CutMix); errors count the labels.

    With `tta_flip`, evaluation takes the mean logits of each image and its mirror image, for twice the time (half of the
    ten-crop testing of Krizhevsky et al. 2012, section 4.1).

    The report shows the confusion matrix and the surest mistakes of the test, see mistakes.py.
    """

    def __init__(
        self, label_smoothing: float = 0.0, class_names: Sequence[str] = (), monitor: str = "loss", tta_flip: bool = False
    ) -> None:
        self.label_smoothing, self.class_names = label_smoothing, class_names
        self.monitor, self.tta_flip = monitor, tta_flip
        self._forget()

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self.score(model(batch["images"]), batch, training=True)

    def begin_evaluation(self, model: nn.Module) -> None:
        self._forget()

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch["images"])
        if self.tta_flip:
            logits = (logits + model(batch["images"].flip(-1))) / 2
        output = self.score(logits, batch, training=False)
        self.mistakes.update(batch["images"], batch["labels"], output.outputs["logits"])
        return output

    def metrics(self) -> dict[str, Metric]:
        classes = len(self.class_names) or math.inf
        return {f"top{k}_error": TopKError(k) for k in (1, 5) if k < classes}  # else it would be 0 for any network

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        from dl.mytorch import introspect, plot

        weight = introspect.first_kernels(model)
        return {} if weight is None else {"kernels": plot.kernels(weight)}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        figures = self.mistakes.draw(self.class_names)
        self._forget()
        return figures | self.preview(model) if figures else {}

    def _forget(self) -> None:
        from dl.mytorch.mistakes import Mistakes  # no part of the loop

        self.mistakes = Mistakes()

    def score(self, logits: Tensor, batch: Batch, training: bool) -> StepOutput:
        """Return the loss of `logits` (B, classes), of which the task of a network with several heads asks for each."""
        targets = batch.get("targets", batch["labels"]) if training else batch["labels"]
        loss = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing if training else 0.0)
        return StepOutput(loss, len(targets), {"logits": logits.detach(), "labels": batch["labels"]})


class Regression(Task):
    """Numbers to predict: mean squared error, its root, and the share of the targets' variance that is left unexplained.

    Batches: "features" (B, ...) and "targets", which have the shape of the model's output.
    """

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Raise `ValueError` when the shapes differ: broadcast, each prediction would be compared with every target."""
        predictions, targets = model(batch["features"]), batch["targets"]
        if predictions.shape != targets.shape:
            raise ValueError(f"predictions {tuple(predictions.shape)} for targets {tuple(targets.shape)}")
        loss = F.mse_loss(predictions, targets)
        return StepOutput(loss, targets.numel(), {"predictions": predictions.detach(), "targets": targets})

    def metrics(self) -> dict[str, Metric]:
        return {"rmse": RMSE(), "unexplained": UnexplainedVariance()}
