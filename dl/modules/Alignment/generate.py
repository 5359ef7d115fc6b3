"""Continue a text with a tuned network: the command `python -m dl.modules.GPT.generate`, for the runs of this category.

python -m dl.modules.Alignment.generate runs/Alignment/GRPO "07+35=" --tokens 4 --temperature 0
"""

import sys

from dl.modules.GPT import generate

load, main = generate.load, generate.main

if __name__ == "__main__":
    sys.exit(main())
