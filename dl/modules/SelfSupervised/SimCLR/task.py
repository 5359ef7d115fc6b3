"""Contrastive learning: two views of an image shall be near each other, and far from those of other images."""

from typing import Any

import torch
from torch import nn

from dl.modules.SelfSupervised.SimCLR.loss import nt_xent
from dl.modules.SelfSupervised.task import SelfSupervised
from dl.mytorch.data import Batch
from dl.mytorch.tasks import StepOutput


class Contrastive(SelfSupervised):
    """NT-Xent of "first" and "second" (B, C, H, W), two views of each image, which pass the network together."""

    def __init__(self, temperature: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = temperature

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        embeddings = model(torch.cat([batch["first"], batch["second"]]))  # (2B, dim)
        loss = nt_xent(*embeddings.chunk(2), self.temperature)
        return StepOutput(loss, len(batch["first"]), {"embeddings": embeddings})

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = self.step(model, batch)
        wrong = self.wrong(model.represent(batch["images"]), batch["labels"])
        return output._replace(outputs=output.outputs | {"wrong": wrong})
