"""Name what sentences say, by a trained run of TextCNN.

python -m dl.modules.RNN.predict "a wonderful film" "two hours too long" --run runs/RNN/TextCNN
python -m dl predict RNN/TextCNN "a wonderful film"
"""

import argparse
import sys
from typing import Sequence

import torch

from dl.cli.command import command
from dl.cli.runs import Run
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data.text.translation import tokenize

RECIPE = "RNN/TextCNN"
SST2 = ("negative", "positive")  # its labels 0 and 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.RNN.predict")
    parser.add_argument("sentences", nargs="+", metavar="SENTENCE", help="what to read; between quotes")
    parser.add_argument("--run", type=user_path, required=True, help=f"folder of a run of {RECIPE}")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    run = Run.open(options.run, RECIPE)
    model, names, vocabulary = run.model(), run.names or SST2, run.vocabularies["tokens"]
    for sentence in options.sentences:
        if not (words := tokenize(sentence)[: run.config.length]):
            raise UserError("a sentence of no words has no class")
        with torch.no_grad():
            probabilities = model(torch.tensor([vocabulary.encode(words)]))[0].softmax(-1)  # (1, T) -> (num_classes,)
        likeliest = int(probabilities.argmax())
        unknown = [word for word in words if word not in vocabulary]
        note = f"  (unknown: {', '.join(unknown)})" if unknown else ""
        print(f"{names[likeliest]}  {probabilities[likeliest]:.1%}  {sentence}{note}")


if __name__ == "__main__":
    sys.exit(main())
