"""Deep-learning papers in PyTorch. This file is read by every Python, before any whose syntax an older one does not know."""

import sys

if sys.version_info < (3, 11):
    found = "%d.%d (%s)" % (sys.version_info[0], sys.version_info[1], sys.executable)
    sys.exit("dl needs Python 3.11 or newer, and this is %s. `make test PYTHON=python3.11` installs all into .venv." % found)
