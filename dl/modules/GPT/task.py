"""Language modelling that shows what the model writes."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dl.mytorch.data import Batch
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.metrics import Mean, Metric, total
from dl.mytorch.tasks import StepOutput
from dl.mytorch.text.generation import Tokens, generate, to_text
from dl.mytorch.text.metrics import Perplexity
from dl.mytorch.text.tasks import LanguageModeling


class WordPerplexity(Perplexity):
    """exp of the loss per word: the same measure whatever tokens the words are cut into.

    `outputs["loss"]` is a mean over `outputs["count"]` tokens, which are `outputs["words"]` words.
    """

    def update(self, outputs: Batch) -> None:
        self.add(total(outputs["loss"], outputs["count"]), outputs["words"])


class BitsPerByte(WordPerplexity):
    """The bits that a byte of the text takes: the same measure for all tokens, and for all languages' letters.

    `outputs["loss"]` is a mean over `outputs["count"]` tokens, which have `outputs["bytes"]` bytes.
    """

    def update(self, outputs: Batch) -> None:
        self.add(total(outputs["loss"], outputs["count"]) / math.log(2), outputs["bytes"])

    def formula(self, *sums: float) -> float:
        return Mean.formula(self, *sums)


class TextModeling(LanguageModeling):
    """The loss per token, and some text after each evaluation, as TensorBoard shows it.

    Args:
        per: "words", evaluation counts the perplexity per word, too: the text has one blank for each word, a space or a line's
            end, and the tokens are a `BPE`. "bytes", it counts the bits per byte; special tokens have none.
    """

    length = 100  # tokens of the text that is shown

    def __init__(self, tokens: Tokens, per: Literal["", "words", "bytes"] = "") -> None:
        super().__init__()
        self.tokens, self.per = tokens, per
        if per == "words":
            self.counts = torch.tensor([t.count(b" ") + t.count(b"\n") for t in tokens.tokens])  # by id
        elif per == "bytes":
            self.counts = torch.tensor([len(t.encode() if isinstance(t, str) else t) for t in tokens.tokens])
            self.counts[list(getattr(tokens, "special", {}).values())] = 0  # characters have none

    def metrics(self) -> dict[str, Metric]:
        return {"": {}, "words": {"word_perplexity": WordPerplexity()}, "bytes": {"bits_per_byte": BitsPerByte()}}[self.per]

    def train_metrics(self) -> dict[str, Metric]:
        return {}

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = super().eval_step(model, batch)
        if self.per:
            predicted = batch["targets"][batch["targets"] != IGNORED]
            output.outputs[self.per] = self.counts.to(predicted.device)[predicted].sum()
        return output

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        device = next(model.parameters()).device
        prompt = torch.tensor([self.tokens.encode("\n")[:1] or [0]], device=device)
        (ids,) = generate(model, prompt, max_new_tokens=self.length, seed=0).tolist()
        return {"sample": to_text(self.tokens, ids)}


class BalancedTextModeling(TextModeling):
    """In training, `balance` of all mixtures of experts, their load-balancing loss, is added with a weight; else not."""

    def __init__(self, *args: Any, weight: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.weight = weight

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = super().step(model, batch)
        losses = [module.balance for module in model.modules() if hasattr(module, "balance")]
        return output._replace(loss=output.loss + self.weight * sum(losses))
