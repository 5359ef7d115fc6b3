"""The loss on answers alone, of sums and of packed dialogues."""

from typing import Any, Callable

from torch import Tensor, nn

from dl.modules.Alignment.task import Answering
from dl.mytorch.data import Batch
from dl.mytorch.metrics import Metric
from dl.mytorch.tasks import StepOutput
from dl.mytorch.text.metrics import Perplexity
from dl.mytorch.text.tasks import LanguageModeling


class Tuning(LanguageModeling):
    """The next token where it is one of an answer, the end mark too; targets of prompts are `IGNORED`.

    "documents" (B, T), where a batch has them, number the dialogues packed into a row: a token sees those of its own alone.
    `answer` gives a text to show after each evaluation.
    """

    def __init__(self, answer: Callable[[nn.Module], str] | None = None) -> None:
        super().__init__()
        self.answer = answer

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        if "documents" not in batch:
            return super().predict(model, batch)
        documents = batch["documents"]
        return model(batch["tokens"], documents[:, :, None] != documents[:, None, :]), batch["targets"]

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity()}

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        return {"answer": self.answer(model)} if self.answer else {}


class SumTuning(Answering, Tuning):
    """`Tuning` on sums, evaluated as `Answering` is, and by its loss. The best checkpoint samples best."""

    monitor = "sampled_error"

    def __init__(self, *args: Any, **options: Any) -> None:
        Tuning.__init__(self)
        Answering.__init__(self, *args, **options)

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = Tuning.eval_step(self, model, batch)
        return output._replace(outputs=self.judge(model, batch["pairs"]))
