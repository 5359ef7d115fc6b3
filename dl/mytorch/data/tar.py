"""Moved: dl/mytorch/data/images/tar.py. `python -m dl.mytorch.data.tar`, its name in 0.1, still runs it."""

import runpy

if __name__ == "__main__":
    runpy.run_module("dl.mytorch.data.images.tar", run_name="__main__", alter_sys=True)
