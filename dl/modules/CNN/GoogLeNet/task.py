"""The loss of a network with auxiliary heads."""

from torch import nn

from dl.mytorch.data import Batch
from dl.mytorch.tasks import Classification, StepOutput


class AuxiliaryClassification(Classification):
    """Section 5: in training, the losses of the auxiliary heads are added with a weight; the paper's is 0.3.

    In training the model gives a tuple, the logits and those of each auxiliary head; or the logits alone, as it does in
    evaluation. The metrics, and the loss in evaluation, are those of the logits.
    """

    auxiliary_weight = 0.3

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = model(batch["images"])
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        scored = self.score(logits, batch, training=True)
        losses = [self.score(head, batch, training=True).loss for head in auxiliary]
        return scored._replace(loss=scored.loss + self.auxiliary_weight * sum(losses))
