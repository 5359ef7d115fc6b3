"""The nearest words by the vectors of a run.

    python -m dl.modules.RNN.Word2Vec.neighbours runs/RNN/Word2Vec king city
"""

import sys
from pathlib import Path
from typing import Sequence

from dl.cli import command
from dl.modules.RNN.Word2Vec.model import Word2Vec
from dl.modules.RNN.Word2Vec.task import neighbours
from dl.modules.RNN.Word2Vec.train import Config, build_model
from dl.mytorch.config import Parser, restore, user_path
from dl.mytorch.data import Vocabulary
from dl.mytorch.run import trained_run


def trained(run: Path) -> tuple[Word2Vec, Vocabulary]:
    """The best checkpoint of a run of this recipe. Raises `UserError` for a folder that holds none."""
    config = restore(Config, trained_run(run, "RNN/Word2Vec")["config"], run / "config.json")
    vocabulary = Vocabulary.load(run / "vocabulary-tokens.json")
    return command.load_best(lambda: build_model(config, len(vocabulary)), run), vocabulary


def main(argv: Sequence[str] | None = None) -> int:
    prog = "python -m dl.modules.RNN.Word2Vec.neighbours"
    parser = Parser(description=(__doc__ or "").partition("\n")[0], prog=prog)
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument("words", nargs="+", metavar="WORD")
    parser.add_argument("--count", type=int, default=8, help="words to show (default: %(default)s)")
    options = parser.parse_intermixed_args(argv)
    if options.count < 1:
        parser.error(f"--count has to be at least 1; got {options.count}")
    return command.run(lambda: print("\n".join(neighbours(*trained(options.run), options.words, options.count))))


if __name__ == "__main__":
    sys.exit(main())
