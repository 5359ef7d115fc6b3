"""The command `python -m dl.modules.GPT.generate`, with the run in runs/StateSpace/Mamba if none is named."""

import sys
from functools import partial

from dl.modules.GPT import generate

main = partial(generate.main, recipe="StateSpace/Mamba")
load = generate.load

if __name__ == "__main__":
    sys.exit(main())
