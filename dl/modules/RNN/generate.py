"""Continue a text with a trained RNN, GRU, LSTM or AWD-LSTM.

python -m dl.modules.RNN.generate runs/RNN/LSTM "ROMEO:"
python -m dl.modules.RNN.generate runs/RNN/LSTM-wikitext2 "the king of" --tokens 50 --temperature 0.7
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch

from dl.cli.command import SEEDS, check_range, command
from dl.cli.runs import Run
from dl.modules.RNN.generation import Recurrent
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import Vocabulary
from dl.mytorch.text.generation import generate, split, to_text

MOST_TOKENS = 10**6  # all are drawn before they are printed
RECIPES = ("RNN/RNN", "RNN/GRU", "RNN/LSTM", "RNN/AWDLSTM")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0], prog="python -m dl.modules.RNN.generate")
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    parser.add_argument("--tokens", type=int, default=300, help="characters or words to add (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = always the likeliest (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k likeliest; 0 = all (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the draws; default: another text each time")
    return parser.parse_intermixed_args(argv)


def load(run: Path | str) -> tuple[Recurrent, Vocabulary]:
    """Return the network of a run's folder, to be called as a generator calls it, and its tokens."""
    opened = Run.open(run, *RECIPES)
    return Recurrent(opened.model()), opened.vocabularies["tokens"]


@command(parse)
def main(options: argparse.Namespace) -> None:
    """Print the prompt and its continuation."""
    check_range("--seed", options.seed, *SEEDS)
    check_range("--tokens", options.tokens, 0, MOST_TOKENS)
    model, vocabulary = load(options.run)
    tokens = split(vocabulary, options.prompt)
    if not tokens:
        raise UserError("a prompt has one token at least")
    ids = torch.tensor([vocabulary.encode(tokens)])
    choice = {"temperature": options.temperature, "top_k": options.top_k, "seed": options.seed}
    print(to_text(vocabulary, generate(model, ids, options.tokens, **choice)[0].tolist()))


if __name__ == "__main__":
    sys.exit(main())
