"""Continue a text with a trained RNN, GRU or LSTM.

    python -m dl.modules.RNN.generate runs/RNN/LSTM "ROMEO:"
    python -m dl.modules.RNN.generate runs/RNN/LSTM-wikitext2 "the king of" --tokens 50 --temperature 0.7
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

import torch
from torch import nn

from dl import catalogue
from dl.modules.RNN.generation import generate, separator, to_text
from dl.modules.RNN.recipe import network
from dl.mytorch.checkpoint import load_weights
from dl.mytorch.config import UserError
from dl.mytorch.data import Vocabulary
from dl.mytorch.logger import trained_run

RECIPES = ("RNN/RNN", "RNN/GRU", "RNN/LSTM")


def trained(run: Path) -> tuple[nn.Module, Vocabulary]:
    """The best checkpoint of a run of one of the three recipes. Raises `UserError` for a folder that holds none."""
    described = trained_run(run)
    recipe = described["recipe"]
    if recipe not in RECIPES:
        raise UserError(f"{run} is a run of {recipe}, not of {', '.join(RECIPES)}")
    vocabulary = Vocabulary.load(run / "vocabulary-tokens.json")
    config = catalogue.module(recipe, "train").Config(**described["config"])
    model = network(config, catalogue.module(recipe).build, len(vocabulary))
    return load_weights(model, run / "best.pt").eval(), vocabulary


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], prog="python -m dl.modules.RNN.generate")
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    parser.add_argument("--tokens", type=int, default=300, help="characters or words to add (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = always the likeliest (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k likeliest; 0 = all (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the draws; default: another text each time")
    options = parser.parse_intermixed_args(argv)
    try:
        model, vocabulary = trained(options.run)
        tokens = options.prompt.split() if separator(vocabulary) else list(options.prompt)
        if not tokens:
            raise UserError("a prompt has one token at least")
        ids = torch.tensor([vocabulary.encode(tokens)])
        choice = {"temperature": options.temperature, "top_k": options.top_k, "seed": options.seed}
        print(to_text(vocabulary, generate(model, ids, options.tokens, **choice)[0].tolist()))
    except (OSError, ValueError) as error:  # `UserError` is one
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
