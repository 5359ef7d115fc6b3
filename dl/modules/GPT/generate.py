"""Continue texts with a language model: with a run of yours, or with OpenAI's GPT-2, whose weights transformers fetches.

python -m dl.modules.GPT.generate runs/GPT/GPT2 "ROMEO:" --temperature 0.9 --top-k 50 --seed 1
python -m dl.modules.GPT.generate runs/GPT/GPT2 "ROMEO:" "JULIET:"               # several texts at once
python -m dl.modules.GPT.generate runs/GPT/GPT2 "ROMEO:" --draft runs/GPT/small  # a small model drafts, the run's checks
python -m dl.modules.GPT.generate gpt2 "The meaning of life is"
"""

import argparse
import sys
from itertools import chain, islice
from os.path import expanduser
from pathlib import Path
from typing import Iterable, Sequence

import torch
from torch import Tensor, nn

from dl.cli.command import SEEDS, check_range, run
from dl.cli.runs import Run
from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.GPT2.convert import PUBLISHED, published
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError
from dl.mytorch.files import read_json
from dl.mytorch.text.generation import Tokens, generate, left_pad, stream, to_text
from dl.mytorch.text.speculative import speculate

RECIPES = (
    *("GPT/GPT2", "GPT/Llama", "GPT/Qwen3", "GPT/DeepSeekV3", "StateSpace/Mamba"),
    *("Alignment/SFT", "Alignment/DPO", "Alignment/GRPO"),
)
MOST_TOKENS = 10**6  # all that were drawn are kept


def main(argv: Sequence[str] | None = None, recipe: str = "") -> int:
    """Run the command, return its exit status; without a RUN it takes the run in runs/`recipe`, if a recipe is named."""
    options = parse(argv, recipe)
    return run(lambda: write(*load(options.run), options))


def parse(argv: Sequence[str] | None, recipe: str) -> argparse.Namespace:
    """Parse the command line."""
    place = f"{recipe.replace('/', '.') or 'GPT'}.generate"
    usual = {"nargs": "?", "default": f"runs/{recipe}"} if recipe else {}
    parser = Parser(description=(__doc__ or "").partition("\n")[0], prog=f"python -m dl.modules.{place}")
    about = f"folder of a run, or {', '.join(PUBLISHED)}" + (f" (default: {usual['default']})" if recipe else "")
    parser.add_argument("run", type=expanduser, metavar="RUN", help=about, **usual)
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="a text to continue")
    parser.add_argument(
        "--draft", type=expanduser, metavar="RUN", help="run of a smaller network, which drafts tokens to check"
    )
    parser.add_argument("--tokens", type=int, default=500, help="the most tokens to add (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 = always the likeliest token (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=0, help="only the k likeliest tokens; 0 = all (default: %(default)s)")
    parser.add_argument("--top-p", type=float, default=1.0, help="only the likeliest of this share (default: %(default)s)")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, help="above 1: repeat less (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the draws; default: another text each time")
    return parser.parse_intermixed_args(argv)


def load(run: str) -> tuple[nn.Module, Tokens]:
    """Return the network and its tokens: of a run's folder, of a name in `PUBLISHED`, or of a folder of transformers."""
    described = Path(run) / "config.json"
    if run in PUBLISHED or (described.exists() and "recipe" not in read_json(described, {})):
        return published(run)
    opened = Run.open(run, *RECIPES)
    return opened.model(), opened.vocabularies["tokens"]


def write(model: nn.Module, tokens: Tokens, options: argparse.Namespace) -> None:
    """The prompts and what follows, to the terminal: one as it comes, several when all are done."""
    check_range("--seed", options.seed, *SEEDS)
    check_range("--tokens", options.tokens, 0, MOST_TOKENS)
    choice = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p")}
    prompts = [tokens.encode(prompt) for prompt in options.prompts]
    if isinstance(tokens, BPE):  # a token that ends texts
        stop = list(tokens.special.values())
    else:
        stop = [i for i, token in enumerate(tokens.tokens) if token.startswith("<|")]  # a mark of dialogues
    if options.draft:
        if len(prompts) > 1 or options.repetition_penalty != 1:
            raise UserError("--draft is for one prompt, without --repetition-penalty")
        draft, theirs = load(options.draft)
        if theirs != tokens:
            raise UserError(f"--draft {options.draft} has other tokens than {options.run}: it cannot draft for it")
        new = speculate(model, draft, torch.tensor(prompts), options.tokens, **choice, seed=options.seed)
        return write_one(options.prompts[0], prompts[0], new, tokens, stop)
    choice |= {"repetition_penalty": options.repetition_penalty, "stop": stop}
    if len(prompts) == 1:
        new = stream(model, torch.tensor(prompts), options.tokens, **choice, seed=options.seed)
        return write_one(options.prompts[0], prompts[0], new, tokens, stop)
    padded, mask = left_pad(prompts)
    seeds = None if options.seed is None else [options.seed] * len(prompts)  # each text as it would be alone
    rows = generate(model, padded, options.tokens, **choice, seed=seeds, padding_mask=mask)[:, padded.shape[1] :]
    for prompt, ids, row in zip(options.prompts, prompts, rows):
        write_one(prompt, ids, row, tokens, stop)


def write_one(prompt: str, ids: list[int], new: Iterable[Tensor], tokens: Tokens, stop: list[int]) -> None:
    """A prompt, whose tokens are `ids`, and what follows, as it comes, up to a token in `stop`."""
    drawn = iter(new)
    first = list(islice(drawn, 1))  # what it refuses is said before the prompt is shown
    print(prompt, end="", flush=True)
    text = to_text(tokens, ids)
    for token in chain(first, drawn):
        if int(token) in stop:
            break
        ids.append(int(token))
        longer = to_text(tokens, ids)
        if not longer.endswith("\ufffd"):  # else a character whose bytes are not all there
            print(longer[len(text) :], end="", flush=True)
            text = longer
    print()


if __name__ == "__main__":
    sys.exit(main())
