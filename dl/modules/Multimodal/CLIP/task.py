"""Pairs of images and texts: the contrastive loss, and how often the right one is found among all."""

import torch
from torch import Tensor, nn

from dl.modules.Multimodal.CLIP.figure import retrieved
from dl.modules.Multimodal.CLIP.loss import clip_loss, siglip_loss
from dl.modules.Multimodal.CLIP.model import Embedded
from dl.modules.Multimodal.CLIP.retrieval import MeanError, RetrievalError, table
from dl.mytorch import Task
from dl.mytorch.data import Batch
from dl.mytorch.data.images.emoji import LANGUAGES, Emoji
from dl.mytorch.metrics import Metric
from dl.mytorch.tasks import StepOutput
from dl.mytorch.train_step import TrainStep


class Contrastive(Task):
    """An image and its text are closer than any other two; names of images that were never seen are found by images, and back.

    Batches: "images" (B, 3, X, X) and "tokens" (B, T) in training; in evaluation "tokens_en", "tokens_zh", the names, and
    "groups" (B,), in which equal numbers are equal images. The errors are of all examples of an evaluation, however they
    are cut into batches; the loss is that of a batch.

    Args:
        shown: the emoji of the test, of which the report shows what is found for some names.
    """

    monitor = "retrieval_error"
    unit = "pair"

    def __init__(self, siglip: bool = False, shown: Emoji | None = None) -> None:
        self.loss, self.emoji = siglip_loss if siglip else clip_loss, shown
        self.kept: list[dict[str, Tensor]] = []

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        pairs = model(batch["images"], batch["tokens"])
        return StepOutput(self.loss(pairs), len(pairs.image), {})

    def begin_evaluation(self, model: nn.Module) -> None:
        self.kept = []

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        image, losses, outputs = model.encode_images(batch["images"]), [], {"groups": batch["groups"]}
        for language in LANGUAGES:
            outputs[language] = model.encode_texts(batch[f"tokens_{language}"])
            losses.append(self.loss(Embedded(image, outputs[language], model.log_scale.exp(), model.bias)))
        outputs["image"] = image
        self.kept.append({name: tensor.float().cpu() for name, tensor in outputs.items()})
        return StepOutput(torch.stack(losses).mean(), len(image), outputs)

    def train_metrics(self) -> dict[str, Metric]:
        return {}

    def metrics(self) -> dict[str, Metric]:
        ways = [way for language in LANGUAGES for way in (("image", language), (language, "image"))]
        errors = {f"{a}_to_{b}_top{k}_error": RetrievalError(a, b, k) for a, b in ways for k in (1, 5)}
        return {"retrieval_error": MeanError([RetrievalError(a, b, k) for a, b in ways for k in (1, 5)]), **errors}

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        if self.emoji is None or sum(len(part["image"]) for part in self.kept) != len(self.emoji.bases):
            return {}  # another set, or one of several ranks, which has a part of it
        found = {name: torch.cat([part[name] for part in self.kept]) for name in self.kept[0]}
        figures = {f"retrieved_{language}": retrieved(found, self.emoji, language) for language in LANGUAGES}
        return {"categories": table(found, self.emoji.categories), **figures}


class ClippedStep(TrainStep):
    """A step after which the scale of the cosines is at most 100 (section 2.5)."""

    def learn(self, batches: list[Batch]) -> None:
        super().learn(batches)
        self.model.clip_scale()
