"""Tasks on tokens: a label for a sentence, the next token, a sentence from another."""

from torch import Tensor, nn
from torch.nn import functional as F

from dl.mytorch.data.loader import Batch
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.metrics import Metric, TopKError
from dl.mytorch.tasks import StepOutput, Task
from dl.mytorch.text.metrics import Perplexity


class SentenceClassification(Task):
    """One label per sentence: cross-entropy and top-1 error.

    Batches: "tokens" (B, T), rows filled up with `padding`, and "labels" (B,). The best checkpoint has the lowest error.
    """

    monitor = "top1_error"

    def __init__(self, padding: int = 0) -> None:
        self.padding = padding

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        tokens, labels = batch["tokens"], batch["labels"]
        logits = model(tokens, tokens == self.padding)
        loss = F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))  # a rank may have no sentence
        return StepOutput(loss, len(labels), {"logits": logits.detach(), "labels": labels})

    def metrics(self) -> dict[str, Metric]:
        return {"top1_error": TopKError(1)}


class LanguageModeling(Task):
    """The next token at each position: cross-entropy, perplexity and top-1 error per token.

    Batches: "tokens" (B, T) and "targets" (B, T), where `IGNORED` ones count for nothing; the model gives logits (B, T, V).
    The loss is a mean over the targets that count, so batches and ranks with more of them weigh more. Label smoothing
    acts on the training loss only; perplexity is always that of the plain cross-entropy.
    """

    unit = "token"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self._score(*self.predict(model, batch), self.label_smoothing)

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self._score(*self.predict(model, batch), 0.0)

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity(), "top1_error": TopKError(1)}

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits (B, T, V) and the targets (B, T) that they are for."""
        return model(batch["tokens"]), batch["targets"]

    def _score(self, logits: Tensor, targets: Tensor, label_smoothing: float) -> StepOutput:
        count = (targets != IGNORED).sum()

        def mean_loss(logits: Tensor, label_smoothing: float) -> Tensor:
            flat, wanted = logits.flatten(0, -2), targets.flatten()
            loss = F.cross_entropy(flat, wanted, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)
            return loss / count.clamp(min=1)  # a rank may have no target at all

        loss = mean_loss(logits, label_smoothing)
        plain = mean_loss(logits.detach(), 0.0) if label_smoothing else loss.detach()
        return StepOutput(loss, count, {"logits": logits.detach(), "labels": targets, "loss": plain, "count": count})


class Seq2Seq(LanguageModeling):
    """A target sentence, token by token, given the source and the true tokens before (teacher forcing).

    Batches: "source" (B, S) and "target" (B, T), which begins with a token that starts sentences; both filled up with
    `padding`. The model is called as model(source, target without its last, source == padding) and gives logits
    (B, T - 1, V) for the targets after the first. Loss and errors as in `LanguageModeling`, over targets, not padding.
    """

    def __init__(self, padding: int = 0, label_smoothing: float = 0.0) -> None:
        super().__init__(label_smoothing)
        self.padding = padding

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        source, target = batch["source"], batch["target"]
        wanted = target[:, 1:]
        return model(source, target[:, :-1], source == self.padding), wanted.masked_fill(wanted == self.padding, IGNORED)
