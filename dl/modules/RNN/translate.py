"""Translate sentences with a trained run of Seq2Seq or BahdanauAttention.

    python -m dl.modules.RNN.translate runs/RNN/Seq2Seq "I lost." "He's calm."
    python -m dl.modules.RNN.translate runs/RNN/BahdanauAttention "I'm home." --beams 4 --figure attention.png
    python -m dl.modules.RNN.translate RUN --test --beams 4     # BLEU of the run's test sentences
"""

import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from dl.cli import catalogue, command
from dl.modules.RNN.translating import build_model
from dl.modules.Transformers.Transformer import translate
from dl.mytorch.config import UserError, restore
from dl.mytorch.data import TextSplits, Vocabulary, translation
from dl.mytorch.data.text.vocabulary import BEGIN
from dl.mytorch.run import trained_run
from dl.mytorch.text.translation import Translation

RECIPES = ("RNN/Seq2Seq", "RNN/BahdanauAttention")


class RecurrentTranslator(translate.Translator):
    """A trained network with what belongs to it."""

    @torch.no_grad()
    def attention(self, sentence: str, translated: Sequence[str]) -> dict[str, Tensor]:
        """What each word of the translation, and its end, looked at: (T + 1, S). `UserError` for one that cannot look."""
        if not hasattr(self.model, "align"):
            raise UserError(f"{self.config.out}: a network without attention looks at nothing that could be drawn")
        target = torch.tensor([self.task.target.encode([BEGIN, *translated])])
        return {"attention": self.model.align(target, self.model.encode(self.encode(sentence)))[1][0]}

    def data(self) -> TextSplits:
        return translation(self.config, self.config.min_count)


def trained(run: Path, beams: int = 1) -> RecurrentTranslator:
    """The best checkpoint of a run of one of the two recipes. Raises `UserError` for a folder that holds none."""
    described = trained_run(run, *RECIPES)
    recipe = described["recipe"]
    config_class = catalogue.module(recipe, "train").Config
    config = restore(config_class, described["config"] | {"out": str(run)}, run / "config.json")
    vocabularies = {name: Vocabulary.load(run / f"vocabulary-{name}.json") for name in ("source", "target")}
    model = command.load_best(lambda: build_model(config, catalogue.module(recipe).build, vocabularies), run)
    return RecurrentTranslator(model, Translation(vocabularies, beams=beams), config)


def main(argv: Sequence[str] | None = None) -> int:
    return translate.main(argv, trained, "dl.modules.RNN.translate")


if __name__ == "__main__":
    sys.exit(main())
