"""Continue a text with a network of yours.

    python -m dl.modules.GPT.Llama.generate "ROMEO:"                       # the run in runs/GPT/Llama
    python -m dl.modules.GPT.Llama.generate runs/GPT/Llama-2 "ROMEO:" --temperature 0.9 --top-p 0.9 --seed 1
"""

import sys
from pathlib import Path
from typing import Sequence

from dl.modules.GPT import command
from dl.modules.GPT.Llama.model import build
from dl.modules.GPT.Llama.train import Config


def main(argv: Sequence[str] | None = None) -> int:
    return command.main(argv, "GPT/Llama", "folder of a run", lambda run: command.trained(Path(run), "GPT/Llama", Config, build))


if __name__ == "__main__":
    sys.exit(main())
