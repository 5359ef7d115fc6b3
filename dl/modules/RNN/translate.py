"""Translate sentences with a trained run of Seq2Seq or BahdanauAttention.

python -m dl.modules.RNN.translate runs/RNN/Seq2Seq "I lost." "He's calm."
python -m dl.modules.RNN.translate runs/RNN/BahdanauAttention "I'm home." --num-beams 4 --figure attention.png
python -m dl.modules.RNN.translate RUN --test --num-beams 4     # BLEU of the run's test sentences
"""

import sys
from typing import Sequence

import torch
from torch import Tensor

from dl.modules.Transformers.Transformer import translate
from dl.mytorch.config import UserError
from dl.mytorch.data import Splits, translation
from dl.mytorch.data.text.vocabulary import BEGIN

RECIPES = ("RNN/Seq2Seq", "RNN/BahdanauAttention")


class RecurrentTranslator(translate.Translator):
    """A run of Seq2Seq or BahdanauAttention that translates."""

    @torch.no_grad()
    def attention(self, sentence: str, translated: Sequence[str]) -> dict[str, Tensor]:
        """Return what each word of the translation, and its end, looked at: (T + 1, S).

        `UserError` for one that cannot look.
        """
        if not hasattr(self.model, "align"):
            raise UserError(f"{self.config.out}: a network without attention looks at nothing that could be drawn")
        target = torch.tensor([self.task.target.encode([BEGIN, *translated])])
        return {"attention": self.model.align(target, self.model.encode(self.encode(sentence)))[1][0]}

    def data(self) -> Splits:
        return translation(self.config, self.config.min_count)


def main(argv: Sequence[str] | None = None) -> int:
    return translate.main(argv, RecurrentTranslator, "dl.modules.RNN.translate", RECIPES)


if __name__ == "__main__":
    sys.exit(main())
