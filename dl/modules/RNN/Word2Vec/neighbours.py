"""The nearest words by the vectors of a run.

python -m dl.modules.RNN.Word2Vec.neighbours runs/RNN/Word2Vec king city
"""

import argparse
import sys
from typing import Sequence

from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.RNN.Word2Vec.task import neighbours
from dl.mytorch.command_line import Parser
from dl.mytorch.config import user_path


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    prog = "python -m dl.modules.RNN.Word2Vec.neighbours"
    parser = Parser(description=(__doc__ or "").partition("\n")[0], prog=prog)
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument("words", nargs="+", metavar="WORD")
    parser.add_argument("--count", type=int, default=8, help="words to show (default: %(default)s)")
    options = parser.parse_intermixed_args(argv)
    if options.count < 1:
        parser.error(f"--count has to be at least 1; got {options.count}")
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    run = Run.open(options.run, "RNN/Word2Vec")
    print("\n".join(neighbours(run.model(), run.vocabularies["tokens"], options.words, options.count)))


if __name__ == "__main__":
    sys.exit(main())
