"""Classification whose report shows where the class token looks."""

import torch
from torch import Tensor, nn

from dl.modules.Transformers.ViT.model import ViT
from dl.mytorch import Probe, StepOutput, plot
from dl.mytorch.data import Batch
from dl.mytorch.introspect import uncompiled
from dl.mytorch.tasks import Classification


@torch.no_grad()
def class_attention(model: ViT, images: Tensor, block: int = -1) -> Tensor:
    """Return the weights that the class token gives to the patches in a block, the last by default: (B, heads, grid, grid).

    The rest of each head's 1 goes to the class token itself.
    """
    layer = f"blocks.{range(len(model.blocks))[block]}.attention.weights"
    with Probe(model, layer) as probe, uncompiled():  # compiled code has no hooks
        model(images)
    weights = probe[layer][:, :, 0, 1:]  # (B, heads, 1 + N, 1 + N) -> (B, heads, N)
    return weights.unflatten(-1, (model.grid, model.grid))


class AttentiveClassification(Classification):
    """Classification whose report also has a figure "attention": `class_attention` of the first images of the test."""

    shown = 8

    def begin_evaluation(self, model: nn.Module) -> None:
        self.first: Batch = {}
        super().begin_evaluation(model)

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        self.first = self.first or {name: values[: self.shown] for name, values in batch.items()}
        return super().eval_step(model, batch)

    def report(self, model: ViT) -> dict[str, Tensor | str]:
        """Under several ranks, the attention is that of rank 0's images."""
        figures = super().report(model)
        if not self.first:  # a rank may have got none
            return figures
        titles = [self.class_names[label] for label in self.first["labels"]] if self.class_names else None
        weights = class_attention(model, self.first["images"])
        return figures | {"attention": plot.to_tensor(plot.attention_maps(self.first["images"], weights, titles))}
