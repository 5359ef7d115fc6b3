"""Moved to dl/modules/DataMining/ImageSearch/map.py. `python -m dl.modules.DataMining.TSNE.draw`, the name in 0.1, runs it."""

import runpy

if __name__ == "__main__":
    runpy.run_module("dl.modules.DataMining.ImageSearch.map", run_name="__main__", alter_sys=True)
