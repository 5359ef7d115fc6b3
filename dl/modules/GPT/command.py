"""Continue a text from the command line, word by word as it comes."""

import argparse
from os.path import expanduser
from typing import Callable, Sequence

import torch
from torch import nn

from dl.cli.command import SEEDS, check_range, run
from dl.cli.runs import Run
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.mytorch.config import Parser
from dl.mytorch.text.generation import Tokens, stream, to_text

MOST_TOKENS = 10**6  # all that were drawn are kept


Writer = tuple[nn.Module, Tokens]  # a network with its tokens: a run's, or published ones


def writer(run: Run) -> Writer:
    """The network of a run, with its tokens."""
    return run.model(), run.vocabularies["tokens"]


def parse(argv: Sequence[str] | None, recipe: str, run_help: str) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__, prog=f"python -m dl.modules.{recipe.replace('/', '.')}.generate")
    usual = f"runs/{recipe}"
    parser.add_argument("run", nargs="?", type=expanduser, default=usual, metavar="RUN", help=f"{run_help} (default: {usual})")
    parser.add_argument("prompt", metavar="PROMPT", help="the text to continue")
    parser.add_argument("--tokens", type=int, default=500, help="the most tokens to add (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = always the likeliest token (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k likeliest tokens; 0 = all (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the likeliest of this share (default: %(default)s)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the draws; default: another text each time")
    return parser.parse_intermixed_args(argv)


def write(model: nn.Module, tokens: Tokens, options: argparse.Namespace) -> None:
    """The prompt and what follows, to the terminal. A token that ends texts ends this one."""
    check_range("--seed", options.seed, *SEEDS)
    check_range("--tokens", options.tokens, 0, MOST_TOKENS)
    ids = tokens.encode(options.prompt)
    names = ("temperature", "top_k", "top_p", "repetition_penalty", "seed")
    choice = {name: getattr(options, name) for name in names}
    stop = list(tokens.special.values()) if isinstance(tokens, BPE) else []
    print(options.prompt, end="", flush=True)
    text = to_text(tokens, ids)
    for token in stream(model, torch.tensor([ids]), max_new_tokens=options.tokens, stop=stop, **choice):
        if int(token) in stop:
            break
        ids.append(int(token))
        longer = to_text(tokens, ids)
        if not longer.endswith("\ufffd"):  # else a character whose bytes are not all there
            print(longer[len(text) :], end="", flush=True)
            text = longer
    print()


def main(argv: Sequence[str] | None, recipe: str, run_help: str, load: Callable[[str], Writer]) -> int:
    options = parse(argv, recipe, run_help)
    return run(lambda: write(*load(options.run), options))
