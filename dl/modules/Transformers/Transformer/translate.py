"""Translate sentences with a trained run.

python -m dl.modules.Transformers.Transformer.translate runs/Transformers/Transformer "I lost." "He's calm."
python -m dl.modules.Transformers.Transformer.translate RUN "I'm home." --num-beams 4 --figure attention.png
python -m dl.modules.Transformers.Transformer.translate RUN --test --num-beams 4     # BLEU of the run's test sentences
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import Tensor

from dl.cli.command import run
from dl.cli.runs import Run
from dl.mytorch import Probe, plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import Splits, translation
from dl.mytorch.data.text.translation import tokenize
from dl.mytorch.data.text.vocabulary import BEGIN, END, PADDING, UNKNOWN
from dl.mytorch.text.decoding import MOST_BEAMS
from dl.mytorch.text.translation import Translation

SIGNS = (PADDING, BEGIN, END)  # never a word of a sentence


class Translator:
    """A run that translates, by a search with `num_beams`."""

    def __init__(self, run: Run, num_beams: int = 1) -> None:
        self.model, self.config = run.model(), run.config
        self.task = Translation(run.vocabularies, num_beams=num_beams)  # has the vocabularies and the search

    def encode(self, sentence: str) -> Tensor:
        """Return words and <eos> as ids (1, S).

        Raises `UserError` for a sentence that is not UTF-8, has no words or more of them than the network has positions.
        """
        if any("\udc80" <= character <= "\udcff" for character in sentence):  # how Python keeps bytes that it cannot read
            raise UserError(f"{sentence!a} is not UTF-8")
        words = tokenize(sentence)
        if not words:
            raise UserError("a sentence without words cannot be translated")
        if len(words) + 1 > self.model.max_length:
            shown = " ".join(words[:5])
            raise UserError(f"{shown!r}... has {len(words)} words; the network has {self.model.max_length - 1} places")
        words = [UNKNOWN if word in SIGNS else word for word in words]
        return torch.tensor([self.task.source.encode([*words, END])])

    def unknown(self, sentence: str) -> list[str]:
        """Return the words that the vocabulary lacks."""
        return [word for word in tokenize(sentence) if word not in self.task.source or word in SIGNS]

    def __call__(self, sentence: str) -> list[str]:
        """Return the words of the translation."""
        (ids,) = self.task.translate(self.model, self.encode(sentence))
        return self.task.target.decode(ids)

    @torch.no_grad()
    def attention(self, sentence: str, translated: Sequence[str]) -> dict[str, Tensor]:
        """What each word of the translation, and its end, looked at, (T + 1, S): the mean of the heads, then head by head.

        Of the last decoder block.
        """
        layer = f"decoder.{len(self.model.decoder) - 1}.cross_attention.weights"
        target = torch.tensor([self.task.target.encode([BEGIN, *translated])])
        with Probe(self.model, layer) as probe:
            self.model(self.encode(sentence), target)
        heads = probe[layer][0]  # (heads, T + 1, S)
        return {"mean": heads.mean(0)} | {f"head {i}": head for i, head in enumerate(heads, start=1)}

    def data(self) -> Splits:
        """Return what the run was trained on."""
        return translation(self.config, self.config.min_count, self.config.shared)

    @torch.no_grad()
    def test_bleu(self) -> float:
        """Return the BLEU of the test sentences of the data that the run was trained on."""
        data = self.data()
        for name, vocabulary in data.vocabularies.items():
            vocabulary.check_same(Path(self.config.out) / f"vocabulary-{name}.json")
        bleu_error = self.task.metrics()["bleu_error"]
        for batch in data.test.batches():
            bleu_error.update(self.task.eval_step(self.model, batch).outputs)
        return 1 - bleu_error.compute()


def draw(translator: Translator, sentence: str, translated: Sequence[str], path: Path) -> None:
    """Draw a figure of `Translator.attention`."""
    weights = translator.attention(sentence, translated)
    plot.save_figure(plot.word_attention(weights, [*translated, END], [*tokenize(sentence), END], min(3, len(weights))), path)


def parse(argv: Sequence[str] | None, module: str) -> argparse.Namespace:
    """Return the command line of `python -m <module>`."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0], prog=f"python -m {module}")
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument("sentences", nargs="*", metavar="SENTENCE", help="in the language of the run's sources")
    parser.add_argument("--num-beams", type=int, default=1, help="beam of the search, 1 is greedy (default: %(default)s)")
    parser.add_argument("--beams", dest="num_beams", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # of 0.1
    parser.add_argument("--figure", type=user_path, help="also draw what the first translation looked at into this file")
    parser.add_argument("--test", action="store_true", help="also translate the run's test sentences, for their BLEU")
    options = parser.parse_intermixed_args(argv)
    if not 1 <= options.num_beams <= MOST_BEAMS:
        parser.error(f"--num-beams has to be at least 1 and at most {MOST_BEAMS:,}; got {options.num_beams}")
    if not options.sentences and (options.figure or not options.test):
        parser.error("give a sentence to translate")
    return options


def main(
    argv: Sequence[str] | None = None,
    translator_of: type[Translator] = Translator,
    module: str = "dl.modules.Transformers.Transformer.translate",
    recipes: Sequence[str] = ("Transformers/Transformer",),
) -> int:
    """Run the command `python -m <module>` for runs of the `recipes`; return its exit status."""
    options = parse(argv, module)

    def act() -> None:
        translator = translator_of(Run.open(options.run, *recipes), options.num_beams)
        for i, sentence in enumerate(options.sentences):
            translated = translator(sentence)
            if unknown := translator.unknown(sentence):
                print(f"not in the vocabulary, read as <unk>: {', '.join(unknown)}", file=sys.stderr)
            print(f"{sentence} -> {' '.join(translated)}")
            if options.figure and i == 0:
                draw(translator, sentence, translated, options.figure)
                print(f"drawn: {options.figure}")
        if options.test:
            print(f"BLEU of the test sentences: {100 * translator.test_bleu():.2f}")

    return run(act)


if __name__ == "__main__":
    sys.exit(main())
