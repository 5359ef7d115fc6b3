"""Translation that shows what each word looked at."""

import torch
from torch import Tensor, nn

from dl.mytorch import StepOutput, plot
from dl.mytorch.data import Batch
from dl.mytorch.data.text.vocabulary import BEGIN, END
from dl.mytorch.text.translation import Translation


class AlignedTranslation(Translation):
    """`Translation` whose report draws the attention of some translations of the test."""

    figures = 3

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        if not self.lines:  # the first batch of an evaluation
            self.sources = batch["source"]
        return super().eval_step(model, batch)

    def report(self, model: nn.Module) -> dict[str, Tensor | str]:
        shown = super().report(model)
        places = torch.linspace(0, len(self.sources) - 1, self.figures).long().unique().tolist()
        for number, place in enumerate(places, start=1):
            source = self.sources[place]
            words, weights = self.aligned(model, source[source != self.padding])
            columns = self.source.decode(self.sources[place][self.sources[place] != self.padding])
            shown[f"attention{number}"] = plot.to_tensor(plot.word_attention({"": weights}, words, columns, across=1))
        return shown

    def aligned(self, model: nn.Module, source: Tensor) -> tuple[list[str], Tensor]:
        """Return a translation of source (S,), with the <eos> that ends it, and what each of its words looked at, (T, S)."""
        (ids,) = self.translate(model, source[None])
        target = torch.tensor([[self.target[BEGIN], *ids]], device=source.device)
        weights = model.align(target, model.encode(source[None]))[1][0]
        return [*self.target.decode(ids), END], weights
