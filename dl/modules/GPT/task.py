"""Language modelling that shows what the model writes."""

import torch
from torch import Tensor, nn

from dl.mytorch.data import Batch
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.metrics import Metric, total
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


class TextModeling(LanguageModeling):
    """The loss per token, and some text after each evaluation, as TensorBoard shows it.

    Args:
        words: evaluation counts the perplexity per word, too. The text has one blank for each word, a space or a line's
            end, and the tokens are a `BPE`.
    """

    length = 100  # tokens of the text that is shown

    def __init__(self, tokens: Tokens, words: bool = False) -> None:
        super().__init__()
        self.tokens = tokens
        self.words = torch.tensor([t.count(b" ") + t.count(b"\n") for t in tokens.tokens]) if words else None  # by id

    def metrics(self) -> dict[str, Metric]:
        return {} if self.words is None else {"word_perplexity": WordPerplexity()}

    def train_metrics(self) -> dict[str, Metric]:
        return {}

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        output = super().eval_step(model, batch)
        if self.words is not None:
            predicted = batch["targets"][batch["targets"] != IGNORED]
            output.outputs["words"] = self.words.to(predicted.device)[predicted].sum()
        return output

    def preview(self, model: nn.Module) -> dict[str, Tensor | str]:
        device = next(model.parameters()).device
        prompt = torch.tensor([self.tokens.encode("\n")[:1] or [0]], device=device)
        (ids,) = generate(model, prompt, max_new_tokens=self.length, seed=0).tolist()
        return {"sample": to_text(self.tokens, ids)}
