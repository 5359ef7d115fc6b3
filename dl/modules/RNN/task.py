"""Language modelling by truncated back-propagation through time: gradients end with the batch, the state is carried over."""

from typing import Any

import torch
from torch import Tensor, nn

from dl.modules.RNN.generation import Recurrent
from dl.mytorch import StepOutput, Task
from dl.mytorch.data import Batch, Vocabulary
from dl.mytorch.metrics import Metric
from dl.mytorch.text.generation import generate, to_text
from dl.mytorch.text.metrics import Perplexity

State = list[Tensor]  # of a model: an example a row


class StreamModeling(Task):
    """The next token of each stream; each batch starts from the state in which the one before has left the model.

    Batches: those of `dl.mytorch.data.sequences.streams`. Evaluation has a separate state, which starts from zero each time.

    Args:
        ar_alpha: weight of AR, the penalty on the squares of the last layer's output, after dropout.
        tar_beta: weight of TAR, the penalty on the squares of its changes from token to token, before dropout
            (Merity, Keskar & Socher 2017, https://arxiv.org/abs/1708.02182, section 4.6).

    The penalties are part of the training loss, not of perplexity.
    """

    unit = "token"
    length = 100  # of the text that is shown

    def __init__(self, vocabulary: Vocabulary, ar_alpha: float = 0.0, tar_beta: float = 0.0) -> None:
        self.vocabulary = vocabulary
        self.ar_alpha, self.tar_beta = ar_alpha, tar_beta
        self.carried: State = []
        self.evaluated: State = []

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output, scored = self._score(model, batch, self.carried)
        self.carried = [part.detach() for part in output.state]
        loss = scored.loss
        if self.ar_alpha:
            loss = loss + self.ar_alpha * output.dropped.square().mean()
        if self.tar_beta:
            loss = loss + self.tar_beta * output.hidden.diff(dim=1).square().mean()
        return scored._replace(loss=loss)

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output, scored = self._score(model, batch, self.evaluated)
        self.evaluated = output.state
        return scored

    def _score(self, model: nn.Module, batch: Batch, before: State) -> tuple[Any, StepOutput]:
        targets = batch["targets"]
        state = None  # zeros, also after a look at the model with a batch of another size
        if before and len(before[0]) == len(targets):
            state = [part * ~batch["begins"].view(-1, *[1] * (part.ndim - 1)) for part in before]
        output = model(batch["tokens"], state, targets)
        count = (targets >= 0).sum()
        loss = -output.scores.sum() / count.clamp(min=1)
        return output, StepOutput(loss, count, {"loss": loss.detach(), "count": count})

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity()}

    def state(self) -> Batch:
        return {str(i): part for i, part in enumerate(self.carried)}

    def load_state(self, state: Batch) -> None:
        self.carried = list(state.values())

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        """Return a sample of text that the model generates."""
        first = torch.zeros(1, 1, dtype=torch.int64, device=next(model.parameters()).device)
        ids = generate(Recurrent(model), first, self.length, seed=0)
        return {"sample": to_text(self.vocabulary, ids[0].tolist())}
