"""Continue a text with a network of yours.

    python -m dl.modules.GPT.Llama.generate "ROMEO:"                       # the run in runs/GPT/Llama
    python -m dl.modules.GPT.Llama.generate runs/GPT/Llama-2 "ROMEO:" --temperature 0.9 --top-p 0.9 --seed 1
"""

import sys
from typing import Sequence

from dl.cli.runs import Run
from dl.modules.GPT import command


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(argv, "GPT/Llama", "folder of a run", lambda run: command.writer(Run.open(run, "GPT/Llama")))


if __name__ == "__main__":
    sys.exit(main())
