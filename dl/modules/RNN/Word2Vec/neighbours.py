"""The nearest words by the vectors of a run.

    python -m dl.modules.RNN.Word2Vec.neighbours runs/RNN/Word2Vec king city
"""

import sys
from typing import Sequence

from dl.cli import command
from dl.cli.runs import Run
from dl.modules.RNN.Word2Vec.task import neighbours
from dl.mytorch.config import Parser, user_path


def answer(run: Run, words: Sequence[str], count: int) -> str:
    """A line for each word, with the words near it."""
    return "\n".join(neighbours(run.model(), run.vocabularies["tokens"], words, count))


def main(argv: Sequence[str] | None = None) -> int:
    prog = "python -m dl.modules.RNN.Word2Vec.neighbours"
    parser = Parser(description=(__doc__ or "").partition("\n")[0], prog=prog)
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument("words", nargs="+", metavar="WORD")
    parser.add_argument("--count", type=int, default=8, help="words to show (default: %(default)s)")
    options = parser.parse_intermixed_args(argv)
    if options.count < 1:
        parser.error(f"--count has to be at least 1; got {options.count}")
    return command.run(lambda: print(answer(Run.open(options.run, "RNN/Word2Vec"), options.words, options.count)))


if __name__ == "__main__":
    sys.exit(main())
